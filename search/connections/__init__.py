"""Stage 2: one block for each site, chosen in a supernet."""
