"""A study of ways to propose blocks."""
