"""All ranks have the same answers of the plugins: compared before any process group is made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from mimo_core.errors import PluginError
from mimo_core.launch.rank_env import Rank
from mimo_core.launch.version_check import Store
from mimo_core.planning.plan import Plan
from mimo_core.planning.plugin_answers import answers_of

_KEY = "mimo/answers"
_SHOWN = 10
"""Differences that a message shows."""


def compare_answers(plan: Plan, rank: Rank, store: Store) -> None:
    """Compare what the plugins answered here with what they answered on rank 0.

    Called by all ranks.

    Args:
        plan: This rank's.
        rank: This rank.
        store: Where the ranks met.

    Raises:
        PluginError: some answers differ; says each with its module, plugin and hook and both
            values. On the ranks that differ from rank 0.
    """
    mine = answers_of(plan.graph, plan.preview)
    if rank.rank == 0:
        store.set(_KEY, json.dumps(mine))
    first = json.loads(store.get(_KEY))
    if mine != first:
        lines = list(_differences(first, mine, rank.rank))
        more = len(lines) - _SHOWN
        raise PluginError(
            "\n".join(
                [
                    f"plugins answer otherwise on rank {rank.rank} than on rank 0:",
                    *lines[:_SHOWN],
                    *([f"  and {more} more"] if more > 0 else []),
                    "an answer must follow from the hook's arguments only, not from the rank, the "
                    "machine or the environment",
                ]
            ),
            code="plugin.differs-by-rank",
            rank=rank.rank,
            places=_places(first, mine),
        )


def _places(first: Mapping[str, str], mine: Mapping[str, str]) -> tuple[str, ...]:
    """The answers that differ, each by its module, plugin and hook."""
    everywhere = dict.fromkeys([*first, *mine])
    return tuple(where for where in everywhere if first.get(where) != mine.get(where))


def _differences(first: Mapping[str, str], mine: Mapping[str, str], rank: int) -> Iterator[str]:
    for where in _places(first, mine):
        one, other = (answers.get(where, "nothing") for answers in (first, mine))
        yield f"  {where}: {one} on rank 0, {other} on rank {rank}"
