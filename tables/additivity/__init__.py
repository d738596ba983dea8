"""How a network's latency adds up from its entries, and how far off that is."""
