"""How many floating-point operations an operator takes."""
