"""How a table is made to fit: columns, texts and numbers for a width and an encoding."""
