"""What a backward runs again, and of what."""
