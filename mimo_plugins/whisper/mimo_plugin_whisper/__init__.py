"""Whisper's encoder as an audio encoder for mimo-core."""

__version__ = "0.1.0"
