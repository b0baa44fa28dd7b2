"""Pure transforms of the graph and the record: levels, passes, selections, rows."""
