"""The commands of build-table."""
