"""Where two records differ: which ops are the same, whose values differ first, what follows."""
