"""One's own images and text as a dataset, listed in a JSONL or CSV file."""

__version__ = "0.1.0"
