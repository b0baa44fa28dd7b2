"""Makes a recording of the tables."""
