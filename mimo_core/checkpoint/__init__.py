"""Checkpoints on disk: which exist, what they hold, and whether their files are intact."""
