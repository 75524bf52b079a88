"""Files, streams, signals and environment variables."""
