"""Process groups, seeds, and messages between ranks: within and between modules."""
