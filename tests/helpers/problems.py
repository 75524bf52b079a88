"""What tests compare of an error: its codes, places and values, not its sentences."""

from __future__ import annotations

from typing import Any

from mimo_core.errors import MimoError
from mimo_core.testing import raises_code as refused

__all__ = ["LONG", "facts", "refused"]

LONG = ("known", "choices")
"""Values that list all that is allowed."""


def facts(error: MimoError) -> list[tuple[str, str, dict[str, Any]]]:
    """Code, place and values of each problem."""
    return [
        (
            problem.code,
            problem.place,
            {name: value for name, value in problem.values.items() if name not in LONG},
        )
        for problem in error.problems
    ]
