"""The collector that follows bad numbers."""
