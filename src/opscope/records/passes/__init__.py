"""Which calls are the same layer, and how one is asked for."""
