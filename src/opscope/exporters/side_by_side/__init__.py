"""What is told of two records."""
