"""The plan of a run: model graph, ranks, memory, FLOPs and checks. Imports no torch."""
