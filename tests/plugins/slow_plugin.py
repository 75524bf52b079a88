"""A plugin whose wrapper makes an encoder slow, without changing what it puts out.

``SLOW`` is ``SECONDS FIRST LAST``: so long each forward pass takes longer, from the first on, up to
the last.
"""

import os
import time
from collections.abc import Generator
from typing import Any

import mimo_core as mimo

mimo_contract = "1.0"

SECONDS, FIRST, LAST = map(float, os.environ["SLOW"].split())


@mimo.hookimpl(wrapper=True)
def build_submodule(module: mimo.ModuleConfig, groups: Any, platform: mimo.Platform) -> Generator:
    parts = yield
    tower = parts.tower.module

    class Slow(tower):  # type: ignore[misc, valid-type]
        count = 0

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            self.count += 1
            if FIRST <= self.count <= LAST:
                time.sleep(SECONDS)
            return super().forward(*args, **kwargs)

    parts.tower.module = Slow
    return parts
