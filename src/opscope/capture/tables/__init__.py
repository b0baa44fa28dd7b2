"""What the log becomes: columns of ops, calls and values."""
