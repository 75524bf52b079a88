"""What a run tells: the screen, the summary, the picture of its loss."""
