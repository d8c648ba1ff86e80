"""Tables in Markdown and one HTML page about a run."""
