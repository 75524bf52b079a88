"""Random images and text of any size and count, for throughput work."""

__version__ = "0.1.0"
