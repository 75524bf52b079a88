"""What functions on ranks share: models as the core builds them, weights, differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from megatron.core.transformer.spec_utils import build_module
from mimo_plugin_radio.plugin import build_submodule

from mimo_core import Grid
from mimo_core.topology import build_topology


def make_groups(grids: dict[str, Grid], platform: Any) -> dict[str, Any]:
    """Process groups by module, every grid from rank 0 on; random states seeded."""
    groups = build_topology(grids, dict.fromkeys(grids, 0), platform.backend).groups
    tp_rank = groups["vision"].tp.rank()
    model_parallel_cuda_manual_seed(7, tp_rank=tp_rank, ep_rank=0, etp_rank=0)
    torch.manual_seed(0)
    return dict(groups)


def build_model(module: Any, groups: Any, platform: Any) -> torch.nn.ModuleDict:
    """Tower and projector, as the core builds them."""
    parts = build_submodule(module, groups, platform)
    return torch.nn.ModuleDict(
        {"tower": build_module(parts.tower), "projector": build_module(parts.projector)}
    )


def random_batch(sizes: Sequence[tuple[int, int]], options: Any) -> dict[str, Any]:
    """Random pixels of these sizes (one size, in fixed resolution) as the tower's forward takes."""
    generator = torch.Generator().manual_seed(3)
    pictures = [torch.randn(1, 3, *size, generator=generator) for size in sizes]
    if options.resolution == "fixed":
        return {"images": torch.cat(pictures)}
    return packed(pictures, options)


def packed(pictures: Sequence[torch.Tensor], options: Any) -> dict[str, Any]:
    """Pictures ``[1, 3, height, width]`` as the tower takes them in dynamic resolution."""
    side = options.patch_size
    patches = [F.unfold(picture, side, stride=side)[0].T for picture in pictures]
    lengths = torch.tensor([0, *map(len, patches)], dtype=torch.int32)
    return {
        "patches": torch.cat(patches),
        "sizes": tuple(tuple(picture.shape[2:]) for picture in pictures),
        "cu_seqlens": lengths.cumsum(0, dtype=torch.int32),
    }


def sharded_state(model: torch.nn.ModuleDict, groups: Any) -> dict[str, Any]:
    sharded: dict[str, Any] = {}
    for name, part in model.items():
        metadata = {"dp_cp_group": groups.dp_cp}
        sharded |= part.sharded_state_dict(prefix=f"{name}.", metadata=metadata)
    return sharded


def largest_gap(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).abs().max())


def hub_weights(weights: dict[str, torch.Tensor], options: Any) -> dict[str, torch.Tensor]:
    """transformers' weights under megatron-core's names."""
    named = {
        "class_token": weights["embeddings.cls_register_token"],
        "position_embeddings": weights["embeddings.position_embedding"],
        "embedder.weight": weights["embeddings.patch_projection.weight"],
    }
    head = options.tower_width // options.tower_heads
    for number in range(options.tower_layers):
        theirs, ours = f"encoder.layer.{number}.", f"decoder.layers.{number}."
        for kind in ("weight", "bias"):
            projections = [weights[f"{theirs}attention.{x}_proj.{kind}"] for x in "qkv"]
            by_head = [part.unflatten(0, (options.tower_heads, head)) for part in projections]
            qkv = torch.stack(by_head, dim=1).flatten(0, 2)  # [heads, 3, head, ...] in one
            named |= {
                f"{ours}self_attention.linear_qkv.{kind}": qkv,
                f"{ours}self_attention.linear_proj.{kind}": weights[
                    f"{theirs}attention.o_proj.{kind}"
                ],
                f"{ours}input_layernorm.{kind}": weights[f"{theirs}norm1.{kind}"],
                f"{ours}pre_mlp_layernorm.{kind}": weights[f"{theirs}norm2.{kind}"],
                f"{ours}mlp.linear_fc1.{kind}": weights[f"{theirs}mlp.fc1.{kind}"],
                f"{ours}mlp.linear_fc2.{kind}": weights[f"{theirs}mlp.fc2.{kind}"],
            }
    return named


def reference_of(tower: Any) -> Any:
    """transformers' RadioModel in evaluation, whose (random) weights the tower is given."""
    from transformers import RadioConfig, RadioModel

    options = tower.options
    config = RadioConfig(
        hidden_size=options.tower_width,
        num_hidden_layers=options.tower_layers,
        num_attention_heads=options.tower_heads,
        patch_size=options.patch_size,
        max_img_size=options.max_image_size,
        num_cls_tokens=1,
        num_registers=options.class_tokens - 1,
        summary_idxs=[0],
        norm_mean=[0.0] * 3,
        norm_std=[1.0] * 3,
    )
    reference = RadioModel(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for name, parameter in reference.named_parameters():
            if "lambda1" in name:
                parameter.fill_(1)  # LayerScale, which RADIO's released files do not have
    tower.vit.load_state_dict(hub_weights(reference.state_dict(), options))
    return reference
