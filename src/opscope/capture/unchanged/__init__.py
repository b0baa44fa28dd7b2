"""Keeps a program what it is without a trace."""
