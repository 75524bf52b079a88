"""A plugin that spoils gradients of one encoder rank; installed by the tests that use it.

It wraps the tower of an encoder. ``GRADIENTS`` is ``RANK FACTOR FIRST LAST …``: on that rank,
the gradients of the microbatches from FIRST on, up to LAST, and so on, are multiplied.
"""

import os
from collections.abc import Generator
from typing import Any

import mimo_core as mimo

mimo_contract = "1.0"

RANK, FACTOR, *NUMBERS = os.environ["GRADIENTS"].split()
ENDS = list(map(int, NUMBERS))
SPANS = [range(first, last + 1) for first, last in zip(ENDS[::2], ENDS[1::2], strict=True)]


@mimo.hookimpl(wrapper=True)
def build_submodule(module: mimo.ModuleConfig, groups: Any, platform: mimo.Platform) -> Generator:
    parts = yield
    if isinstance(parts, mimo.EncoderSpec) and os.environ["RANK"] == RANK:
        parts.tower.module = _planted(parts.tower.module)
    return parts


def _planted(tower: type) -> type:
    class Planted(tower):  # type: ignore[misc, valid-type]
        count = 0

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            rows = super().forward(*args, **kwargs)
            if self.training:
                self.count += 1
                if any(self.count in span for span in SPANS):
                    rows.register_hook(lambda gradient: gradient * float(FACTOR))
            return rows

    return Planted
