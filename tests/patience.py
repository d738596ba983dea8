"""How long a test waits for what happens for certain: only what hangs takes longer, on however slow a machine."""

PATIENCE = 300.0
"""Seconds; below pytest's own limit, which would say less."""
