"""Training, resumable at any moment."""
