"""What operators read, write, alias and draw."""
