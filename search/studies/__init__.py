"""Comparing ways of searching, over many seeds."""
