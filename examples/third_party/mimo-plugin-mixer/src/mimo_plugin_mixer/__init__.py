"""MLP-Mixer image encoders for mimo-core."""
