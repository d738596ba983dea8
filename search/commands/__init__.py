"""The commands of run-search; the rest of the room knows no terminal."""
