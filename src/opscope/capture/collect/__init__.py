"""What else is looked at while torch runs: each thing by a collector."""
