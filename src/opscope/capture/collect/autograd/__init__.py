"""Collectors that look at autograd's graph."""
