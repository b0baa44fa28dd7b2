"""What can be worked out from a record: whether it is true."""
