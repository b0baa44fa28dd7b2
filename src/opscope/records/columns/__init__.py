"""Records that are columns, and made when they are asked for."""
