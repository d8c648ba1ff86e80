"""Measuring images of the emoji world: prompts, scores, intervals, and the runs behind the table."""
