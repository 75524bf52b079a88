"""Saves checkpoints and resumes from them, on all ranks."""
