"""The tower, as Megatron trains it, and its pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn

from mimo_plugin_mixer.layers import Block, Stem
from mimo_plugin_mixer.options import Options


class Mixer(MegatronModule):  # type: ignore[misc]
    """Pictures to rows ``[N, width]``, picture after picture."""

    def __init__(self, config: Any, options: Options, groups: Any) -> None:
        super().__init__(config=config)
        # Read by MegatronModule.sharded_state_dict.
        self.tp_group = groups.tp
        self.stem = Stem(options)
        self.blocks = nn.ModuleList(Block(options) for _ in range(options.layers))
        self.norm = nn.LayerNorm(options.hidden_size)
        self.to(config.params_dtype)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return self.norm(x).flatten(0, 1)  # type: ignore[no-any-return]


def squares(pictures: Sequence[np.ndarray], side: int) -> Tensor:
    """Pictures, uint8 ``[height, width, 3]`` each, as float32 ``[B, 3, side, side]`` in -1 to 1."""
    done = []
    for picture in pictures:
        pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
        if picture.shape[:2] != (side, side):
            pixels = F.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
        done.append(pixels / 127.5 - 1)
    return torch.cat(done)
