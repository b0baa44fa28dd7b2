"""Sums over a recording: what was computed, what the model holds, and how much work it is."""
