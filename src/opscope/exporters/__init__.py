"""One output each, in its library's own objects."""
