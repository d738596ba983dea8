"""Object detection on a network that was found."""
