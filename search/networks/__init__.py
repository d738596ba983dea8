"""What comes out of a search: a network, its weights, its files."""
