"""What becomes of values: which bytes they share, what a program gives, bad numbers."""
