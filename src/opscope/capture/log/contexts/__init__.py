"""From where a call was made, as the frames of the program tell."""
