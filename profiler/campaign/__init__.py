"""Timing everything that a plan names, and keeping it."""
