"""Which module calls, layers and ops of two different programs are the same."""
