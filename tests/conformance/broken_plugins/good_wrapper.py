"""What the wrapper that the kit is tested on builds; imports torch."""

from __future__ import annotations

from typing import Any

import attrs
import torch
from good_tower import Tower
from megatron.core.transformer.spec_utils import ModuleSpec
from torch import Tensor


class Scaled(Tower):
    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.scale = torch.nn.Parameter(torch.ones(1, dtype=given["config"].params_dtype))

    def forward(self, patches: Tensor) -> Tensor:
        return super().forward(patches) * self.scale


def scaled(parts: Any) -> Any:
    """The same parts, the tower with a scale."""
    return attrs.evolve(parts, tower=ModuleSpec(module=Scaled, params=parts.tower.params))
