"""What the scripts call: each module holds one script's work as an importable function, and `common` its manners."""
