"""Starts ranks on one machine, and runs one rank."""
