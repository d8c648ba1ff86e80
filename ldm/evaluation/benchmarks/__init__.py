"""Published benchmarks: their prompt files, folders and scores, from detections to the numbers of their tables."""
