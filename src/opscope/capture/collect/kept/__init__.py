"""Tensors that are kept while the program runs: activations, and what a replay starts from."""
