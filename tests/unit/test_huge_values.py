"""Numbers far beyond any model: the plan refuses them or shows its figures, and takes no time."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, get_args

import attrs
import pytest

from mimo_core.contract import Grid, TrainingConfig
from mimo_core.errors import MimoError
from mimo_core.planning.plan import make_plan
from mimo_core.reporting.tables import memory_table, positions_table

from ..helpers.paths import RECIPES

TINY = RECIPES / "tiny.yaml"
PLUGINS = {
    "vision": ("radio", "whisper", "hf-vision"),
    "language": ("nemotron", "gpt"),
}
HUGE = (10**8, 10**30)
SECONDS = 120
"""A plan of such a number takes well under one; the bound is for a loaded machine."""


class OutOfTimeError(BaseException):
    """Not caught by what a plan catches."""


@contextmanager
def limited() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def integers(cls: type) -> list[str]:
    return [
        field.name
        for field in attrs.fields(attrs.resolve_types(cls))
        if field.type is int or int in get_args(field.type)
    ]


def keys() -> Iterator[str]:
    for name in integers(TrainingConfig):
        yield f"train.{name}"
    for name in integers(Grid):
        yield f"modules.vision.grid.{name}"
        yield f"modules.language.grid.{name}"
    host = make_plan(TINY).host
    for module, plugins in PLUGINS.items():
        for plugin in plugins:
            for name in integers(host.call_hook("options_class", plugin)):
                yield f"modules.{module}.options.{name} of {plugin}"


def overrides(key: str, value: int) -> list[str]:
    key, _, plugin = key.partition(" of ")
    if not plugin:
        return [f"{key}={value}"]
    module = key.split(".")[1]
    options = {key.rsplit(".", 1)[1]: value}
    sizes = {"hidden_size": 32, "layers": 2, "heads": 4, "attention_heads": 4}
    known = {
        "radio": ("hidden_size", "layers", "heads"),
        "whisper": ("hidden_size", "layers", "heads"),
        "gpt": ("hidden_size", "layers", "attention_heads"),
    }
    if plugin in known:
        options = {name: sizes[name] for name in known[plugin]} | options
    if plugin == "nemotron":
        return [f"{key}={value}"]
    text = ", ".join(f"{name}: {number}" for name, number in options.items())
    return [f"modules.{module}.plugin={plugin}", f"modules.{module}.options={{{text}}}"]


@pytest.mark.parametrize("key", list(keys()))
def test_a_huge_number_ends_the_plan_at_once(key: str) -> None:
    for value in HUGE:
        with limited():
            try:
                plan = make_plan(TINY, overrides(key, value))
            except MimoError as error:
                assert len(str(error)) < 2000
                continue
            memory_table(plan)
            if plan.preview:
                positions_table(plan)
