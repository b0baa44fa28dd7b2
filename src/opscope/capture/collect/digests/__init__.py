"""Each value in a few numbers, taken as it comes to be."""
