"""Watches torch run: the modes, the hooks, the tape they write, and its development."""
