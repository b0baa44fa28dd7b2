"""What happened over the course of a run: its memory as a curve, and when what ran."""
