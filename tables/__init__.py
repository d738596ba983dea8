"""Raw records -> one trustworthy number per path."""
