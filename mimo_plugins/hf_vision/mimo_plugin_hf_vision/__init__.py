"""Vision towers of Hugging Face transformers as encoders for mimo-core."""

__version__ = "0.1.0"
