"""A plugin whose wrapper makes an encoder slow, without changing what it puts out."""

import time
from collections.abc import Generator
from typing import Any

import mimo_core as mimo

mimo_contract = "1.0"

SECONDS = 0.04


@mimo.hookimpl(wrapper=True)
def build_submodule(module: mimo.Module, groups: Any, platform: mimo.Platform) -> Generator:
    parts = yield
    tower = parts.tower.module

    class Slow(tower):  # type: ignore[misc, valid-type]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            time.sleep(SECONDS)
            return super().forward(*args, **kwargs)

    parts.tower.module = Slow
    return parts
