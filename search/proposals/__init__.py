"""Stage 1: blocks to choose from, found by evolution."""
