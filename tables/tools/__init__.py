"""What people do with tables: look at them, compare, examine, merge."""
