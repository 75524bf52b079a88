"""A plugin that makes one rank differ; installed by the tests that use it.

``DIFFERS`` is ``RANK WHAT``: it wraps an encoder, and on that rank its answers are others, its
tower begins with other weights, or computes other rows. WHAT names a case below.
"""

import os
from collections.abc import Generator
from typing import Any

import mimo_core as mimo

mimo_contract = "1.0"

RANK, WHAT = os.environ["DIFFERS"].split()
HERE = os.environ.get("RANK") == RANK


@mimo.hookimpl(wrapper=True)
def rng_prefix(module: mimo.ModuleConfig) -> Generator:
    prefix = yield
    return f"odd.{prefix}" if HERE and WHAT == "prefix" else prefix


@mimo.hookimpl(wrapper=True)
def provide_batch(module: mimo.ModuleConfig, samples: Any, context: mimo.BatchContext) -> Generator:
    batch = yield
    if HERE and WHAT == "none":
        return None
    if HERE and WHAT == "key":
        return {**batch, "odd": 1}
    if HERE and WHAT == "inputs":
        return {
            key: value + 1 if getattr(value, "is_floating_point", bool)() else value
            for key, value in batch.items()
        }
    return batch


@mimo.hookimpl(wrapper=True)
def build_submodule(module: mimo.ModuleConfig, groups: Any, platform: mimo.Platform) -> Generator:
    parts = yield
    if HERE and groups is not None:
        if WHAT == "config":
            parts.config.layernorm_epsilon *= 2
        elif WHAT in ("weight", "buffer", "width", "drift"):
            parts.tower.module = _odd(parts.tower.module)
    return parts


def _odd(tower: type) -> type:
    import torch

    class Odd(tower):  # type: ignore[misc, valid-type]
        steps = 0

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            if WHAT == "weight":
                self._move()
            elif WHAT == "buffer":
                self.register_buffer("odd", torch.ones(1))

        def _move(self) -> None:
            with torch.no_grad():
                parameter = next(self.parameters())
                parameter.view(-1)[0] += 1e-3

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            rows = super().forward(*args, **kwargs)
            if WHAT == "drift":
                self.steps += 1
                if self.steps == 6:
                    self._move()
            return torch.cat([rows, rows[..., :1]], -1) if WHAT == "width" else rows

    return Odd
