"""Views in which several nodes of the graph are one."""
