"""Handwritten digits beside spoken ones, as a dataset whose captions need both."""

__version__ = "0.1.0"
