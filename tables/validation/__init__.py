"""How far off a table is on whole networks, and which of its models is the best."""
