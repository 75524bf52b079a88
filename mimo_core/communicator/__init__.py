"""Activations and gradients between pipeline stages and between modules."""
