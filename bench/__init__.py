"""Timings and memory counts; `python -m bench --help`."""
