"""Face identification and person re-identification on a network that was found."""
