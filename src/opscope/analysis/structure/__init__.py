"""The structure of what ran, without its tensors, numbers and places: what a fingerprint is of."""
