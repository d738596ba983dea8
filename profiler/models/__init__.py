"""A part of a network as a module, as a graph and as a file."""
