"""Who waits for whom: operations of all ranks, recorded and replayed on in-order streams."""
