"""A run on disk: a zip of columns as JSON and little-endian numbers, and tensors as safetensors."""
