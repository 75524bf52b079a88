"""The layers, without megatron."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mimo_plugin_mixer.options import Options


class Mlp(nn.Module):
    """Two linear layers on the last axis."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, inner)
        self.fc2 = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Mixes patches, then channels: ``[B, patches, width]``."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(options.hidden_size)
        self.mlp_tokens = Mlp(options.patches, options.patch_inner)
        self.norm2 = nn.LayerNorm(options.hidden_size)
        self.mlp_channels = Mlp(options.hidden_size, options.channel_inner)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mlp_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp_channels(self.norm2(x))  # type: ignore[no-any-return]


class Stem(nn.Module):
    """Pictures ``[B, 3, side, side]`` to patches ``[B, patches, width]``, in reading order."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        side = options.patch_size
        self.proj = nn.Conv2d(3, options.hidden_size, side, stride=side)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images.to(self.proj.weight.dtype)).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]
