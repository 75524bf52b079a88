"""scikit-learn's handwritten digits as a dataset of pictures with captions in words."""

__version__ = "0.1.0"
