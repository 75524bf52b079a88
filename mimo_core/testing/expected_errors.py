"""Expect an error by its code and values, not by its sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mimo_core.errors import MimoError


@contextmanager
def raises_code(
    code: str, kind: type[MimoError] = MimoError, /, **values: Any
) -> Iterator[pytest.ExceptionInfo[MimoError]]:
    """Expect an error of this code, as ``pytest.raises`` expects one of a class.

    Args:
        code: Of the error's first problem.
        kind: Its class, or a base of it.
        values: Some of its values by name; it may have more.

    Yields:
        What ``pytest.raises`` gives; ``.value`` is the error, after the block.
    """
    with pytest.raises(kind) as caught:
        yield caught
    found = caught.value
    assert found.code == code, found
    assert values == {name: found.values.get(name) for name in values}, found.values
