"""What a machine is, and the state it is in."""
