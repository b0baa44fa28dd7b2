"""What two programs do not have in common, as plain data."""
