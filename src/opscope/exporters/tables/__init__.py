"""Tables, in rich's own objects."""
