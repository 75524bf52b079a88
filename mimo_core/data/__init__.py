"""From the dataset's samples to one rank's part of every microbatch."""
