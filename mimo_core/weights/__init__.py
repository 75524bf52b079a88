"""Weights from, and to, directories of Hugging Face's safetensors files."""
