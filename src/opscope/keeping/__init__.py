"""What takes a record with its tensors, live ones or those of a file, and how both are filed."""
