"""For tests of plugins and of the core: functions run on real ranks."""

from mimo_core.testing.ranks import RankFailure, run_ranks

__all__ = ["RankFailure", "run_ranks"]
