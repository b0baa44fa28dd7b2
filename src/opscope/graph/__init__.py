"""The record as a networkx graph: data flow, and attributes by name."""
