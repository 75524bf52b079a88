"""How the property tests draw: the same examples in every run, none kept on disk."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings


def examples(number: int) -> settings:
    """For a test of this many examples.

    Without time limits, for CI machines are slow at times; and a failing example is told as it was
    drawn, for making it smaller can take minutes (add ``Phase.shrink`` to see the smallest).
    """
    return settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=[HealthCheck.too_slow],
    )
