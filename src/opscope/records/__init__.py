"""What happened, as plain data; what follows from it without torch or networkx."""
