"""A study of ways to connect blocks."""
