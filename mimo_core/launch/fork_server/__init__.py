"""Processes that begin with everything imported.

Importing torch and megatron takes seconds of every process. A nursery is one process that does it
once and forks each rank from itself; ranks share its memory pages. It never touches a GPU, so that
its children can.
"""

from mimo_core.launch.fork_server.client import ForkedProcess, ForkServer, ForkServerError

__all__ = ["ForkServer", "ForkServerError", "ForkedProcess"]
