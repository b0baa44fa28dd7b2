"""The rows of tables."""
