"""What is worked out of a record: each thing once, and what is told of all of it."""
