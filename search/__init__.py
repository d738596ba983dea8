"""Block proposals, block connections, retraining."""
