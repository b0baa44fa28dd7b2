"""Watches torch run: the modes, the hooks, the tables they write, and its development."""
