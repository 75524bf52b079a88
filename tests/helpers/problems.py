"""What tests compare of an error: its codes, places and values, not its sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mimo_core.errors import MimoError

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


@contextmanager
def refused(
    code: str, kind: type[MimoError] = MimoError, /, **values: Any
) -> Iterator[pytest.ExceptionInfo[MimoError]]:
    """Expect an error of this code, with these values among its own."""
    with pytest.raises(kind) as caught:
        yield caught
    found = caught.value
    assert found.code == code, found
    assert values == {name: found.values.get(name) for name in values}, found.values
