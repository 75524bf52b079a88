"""The layout made real: grids and process groups."""

from mimo_core.topology.groups import Topology, build_topology

__all__ = ["Topology", "build_topology"]
