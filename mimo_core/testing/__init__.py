"""The conformance kit, and functions run on real ranks: for tests of plugins and of the core."""

from typing import TYPE_CHECKING, Any

from mimo_core.testing.ranks import RankFailure, run_ranks
from mimo_core.testing.subject import Subject

if TYPE_CHECKING:
    from mimo_core.testing.conformance import Conformance

__all__ = ["Conformance", "RankFailure", "Subject", "run_ranks"]


def __getattr__(name: str) -> Any:
    """The kit needs pytest, which the rest does not."""
    if name == "Conformance":
        from mimo_core.testing.conformance import Conformance

        return Conformance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
