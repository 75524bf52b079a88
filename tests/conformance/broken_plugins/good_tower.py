"""The tower of the encoder that the kit is tested on; imports torch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.module import MegatronModule
from torch import Tensor, nn


class Tower(MegatronModule):  # type: ignore[misc]
    """Patches ``[N, 3 * side**2]`` to rows ``[N, H]``: an embedding and one MLP over tp."""

    def __init__(self, config: Any, patch: int, groups: Any) -> None:
        super().__init__(config=config)
        self.tp_group = groups.tp
        width = config.hidden_size
        self.embed = nn.Linear(patch, width, dtype=config.params_dtype)
        given: dict[str, Any] = {"config": config, "bias": False, "tp_group": groups.tp}
        init = {"init_method": config.init_method}
        self.up = ColumnParallelLinear(width, 2 * width, gather_output=False, **init, **given)
        self.down = RowParallelLinear(
            2 * width, width, input_is_parallel=True, skip_bias_add=True, **init, **given
        )

    def forward(self, patches: Tensor) -> Tensor:
        hidden = self.embed(patches.to(self.embed.weight.dtype))
        return hidden + self.mlp(hidden)

    def mlp(self, hidden: Tensor) -> Tensor:
        inner, _ = self.up(hidden)
        output, _ = self.down(F.gelu(inner))
        return output


def encoder(module: Any, groups: Any, tower: Any = Tower, **more: Any) -> Any:
    """The parts of the module."""
    from megatron.core.transformer.spec_utils import ModuleSpec

    from mimo_core import EncoderSpec
    from mimo_core.building import transformer_config

    width = module.options.hidden_size
    config = transformer_config(module, num_layers=1, hidden_size=width, num_attention_heads=2)
    params = {"config": config, "patch": 3 * module.options.patch_size**2, "groups": groups}
    return EncoderSpec(tower=ModuleSpec(module=tower, params=params | more), config=config)


def batch(module: Any, arrays: list[Any]) -> dict[str, Tensor]:
    """``patches``: of all pictures, those at the edges left out."""
    side = module.options.patch_size
    patches = []
    for array in arrays:
        picture = torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255
        patches.append(F.unfold(picture, side, stride=side)[0].T)
    return {"patches": torch.cat(patches)}
