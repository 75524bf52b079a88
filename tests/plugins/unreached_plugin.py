"""A plugin that gives the tower of an encoder a head that its forward does not use."""

from collections.abc import Generator
from typing import Any

import torch

import mimo_core as mimo

mimo_contract = "1.0"


@mimo.hookimpl(wrapper=True)
def build_submodule(module: mimo.ModuleConfig, groups: Any, platform: mimo.Platform) -> Generator:
    parts = yield
    if isinstance(parts, mimo.EncoderSpec):
        parts.tower.module = _with_head(parts.tower.module)
    return parts


def _with_head(tower: type) -> type:
    class WithHead(tower):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.head = torch.nn.Linear(2, 3)

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            rows = super().forward(*args, **kwargs)
            # A head that is used gets a gradient, if only of zeros.
            return rows + 0 * self.head.bias.sum()

    return WithHead
