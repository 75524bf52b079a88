"""CUDA graphs of layers and of frozen encoders."""
