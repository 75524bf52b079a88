"""Every integer key of a recipe refuses what no run can mean, before ranks start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args, get_origin, get_type_hints

import attrs
import pytest

from mimo_core.errors import MimoError
from mimo_core.planning.plan import make_plan
from mimo_core.recipe.schema import Recipe

from ..helpers.paths import RECIPES

HARMLESS = {
    # Nothing is done at so late an iteration; the last one is logged, evaluated and saved anyway.
    *("train.log_interval", "validation.interval", "checkpoint.save_interval"),
    # No more samples are looked at than there are.
    *("validation.num_samples", "validation.num_displayed"),
    # Not read unless profile.enabled is true, which is refused for it.
    "profile.step",
}
"""Keys of which a huge value is harmless, and why."""


def integer_keys(cls: type, path: tuple[str, ...] = ()) -> Iterator[str]:
    for name, kind in get_type_hints(cls).items():
        if kind is int or int in get_args(kind):
            yield ".".join((*path, name))
        elif attrs.has(kind):
            yield from integer_keys(kind, (*path, name))
        elif get_origin(kind) is dict and attrs.has(get_args(kind)[1]):
            for module in ("vision", "language"):
                yield from integer_keys(get_args(kind)[1], (*path, name, module))


KEYS = [*integer_keys(Recipe)]


def test_the_walk_finds_the_keys() -> None:
    assert {"train.iterations", "data.num_workers", "modules.vision.grid.rank_offset"} <= {*KEYS}
    assert {*KEYS} >= HARMLESS


@pytest.mark.parametrize("value", [10**12, -1])
@pytest.mark.parametrize("key", KEYS)
def test_a_value_that_no_run_can_mean_is_refused(key: str, value: int) -> None:
    given = [f"{key}={value}"]
    if value > 0 and key in HARMLESS:
        make_plan(str(RECIPES / "tiny.yaml"), given)
        return
    with pytest.raises(MimoError) as caught:
        make_plan(str(RECIPES / "tiny.yaml"), given)
    assert str(value) in str(caught.value)


def test_a_profile_after_the_last_iteration_is_refused() -> None:
    with pytest.raises(MimoError):
        make_plan(str(RECIPES / "tiny.yaml"), ["profile.enabled=true", f"profile.step={10**12}"])
