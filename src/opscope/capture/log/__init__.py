"""What the watchers write, raw."""
