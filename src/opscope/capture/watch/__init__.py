"""Hears of every operator, torch function and module while torch runs."""
