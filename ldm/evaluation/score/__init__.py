"""What images show: detectors, metrics, and records of their results."""
