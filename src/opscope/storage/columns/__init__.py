"""Columns of records as JSON and a row of little-endian numbers, and back."""
