"""All faults, for the test and for its ranks."""

from __future__ import annotations

import faults_of_data
import faults_of_language
import faults_on_one_rank
import faults_on_two_ranks
import faults_planned
import good_plugins  # noqa: F401 - the good ones run beside the faults
from fault import Fault

from mimo_core.testing.checks import CHECKS

_RANKS = {check.name: check.ranks for check in CHECKS}
_MODULES = (
    faults_planned,
    faults_of_data,
    faults_on_one_rank,
    faults_of_language,
    faults_on_two_ranks,
)


def faults(ranks: int) -> list[type[Fault]]:
    """Those that show on so many ranks."""
    return [
        one
        for module in _MODULES
        for one in vars(module).values()
        if isinstance(one, type)
        and issubclass(one, Fault)
        and one.__module__ == module.__name__
        and hasattr(one, "expected")
        and _RANKS[one.expected[0]] == ranks
    ]
