"""What the tests run on ranks of their own; results go back as JSON values."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from megatron.core.transformer.spec_utils import build_module
from mimo_plugin_radio.plugin import build_submodule, describe
from mimo_plugin_radio.tower import pixel_shuffle
from radio_tiny import tiny_module

from mimo_core import Grid
from mimo_core.topology import build_topology


def one_rank(platform: Any) -> dict[str, Any]:
    """Every check that needs no second rank, in one process."""
    groups = _groups({"vision": Grid()}, platform)["vision"]
    return {
        "variants": [_variant(options, groups, platform) for options in VARIANTS],
        "bf16": _bf16(groups, platform),
        "outside": _outside(platform),
        "embedding": _embedding(groups, platform),
        "rows": _rows(groups, platform),
        "class_tokens": _class_tokens(groups, platform),
        "shuffle": _shuffle(),
        "crop": _noise(groups, platform, position_crop=True),
        "dropout": _noise(groups, platform, dropout=0.5),
        "still": _noise(groups, platform),
        "reference": [_reference(side, groups, platform) for side in (16, 32, 48)],
    }


VARIANTS: list[dict[str, Any]] = [
    {},
    {"projector": "mlp", "projector_hidden_size": 40, "ffn_hidden_size": 24},
    {"pixel_shuffle": False, "keep_class_tokens": True},
    {"pixel_shuffle": False, "class_tokens": 0},
]


def _groups(grids: dict[str, Grid], platform: Any) -> dict[str, Any]:
    """Process groups by module, every grid from rank 0 on; random states seeded."""
    groups = build_topology(grids, dict.fromkeys(grids, 0), platform.backend).groups
    tp_rank = groups["vision"].tp.rank()
    model_parallel_cuda_manual_seed(7, tp_rank=tp_rank, ep_rank=0, etp_rank=0)
    torch.manual_seed(0)
    return dict(groups)


def _build(module: Any, groups: Any, platform: Any) -> torch.nn.ModuleDict:
    """Tower and projector, as the core builds them."""
    parts = build_submodule(module, groups, platform)
    return torch.nn.ModuleDict(
        {"tower": build_module(parts.tower), "projector": build_module(parts.projector)}
    )


def _images(count: int, side: int = 16) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(3))


def _project(model: torch.nn.ModuleDict, images: torch.Tensor) -> torch.Tensor:
    projected: torch.Tensor = model["projector"](model["tower"](images))
    return projected


def _sharded(model: torch.nn.ModuleDict, groups: Any) -> dict[str, Any]:
    sharded: dict[str, Any] = {}
    for name, part in model.items():
        metadata = {"dp_cp_group": groups.dp_cp}
        sharded |= part.sharded_state_dict(prefix=f"{name}.", metadata=metadata)
    return sharded


def _gap(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).abs().max())


def _variant(options: dict[str, Any], groups: Any, platform: Any) -> dict[str, Any]:
    module = tiny_module(**options)
    model = _build(module, groups, platform)
    rows = model["tower"](_images(2))
    projected = model["projector"](rows)
    projected.square().sum().backward()
    parameters = dict(model.named_parameters())
    description = describe(module)
    return {
        "rows": list(rows.shape),
        "expected_rows": [2 * sum(description.positions([None])), description.width],
        "projected": list(projected.shape),
        "without_gradient": [
            name
            for name, parameter in parameters.items()
            if parameter.grad is None or not parameter.grad.isfinite().all()
        ],
        "zero_gradient": [
            name for name, parameter in parameters.items() if not parameter.grad.count_nonzero()
        ],
        "unsaved": sorted(parameters.keys() - _sharded(model, groups).keys()),
        "parameters": sum(parameter.numel() for parameter in parameters.values()),
        "described": description.parameters,
    }


def _bf16(groups: Any, platform: Any) -> str:
    model = _build(tiny_module(precision="bf16"), groups, platform)
    return str(_project(model, _images(1)).dtype)


def _outside(platform: Any) -> int:
    """What a rank outside the module's grid reads: the width, from a module of another grid."""
    parts = build_submodule(tiny_module(tp=2), None, platform)
    return int(parts.config.hidden_size)


def _embedding(groups: Any, platform: Any) -> float:
    """Spread of embedded patches, for pixels of unit variance."""
    model = _build(tiny_module(hidden_size=64), groups, platform)
    patches = torch.randn(64, 48)
    return float(model["tower"].vit.embedder(patches)[0].std())


def _rows(groups: Any, platform: Any) -> float:
    """Two pictures at once, against one after the other."""
    model = _build(tiny_module(), groups, platform)
    images = _images(2)
    apart = torch.cat([model["tower"](images[:1]), model["tower"](images[1:])])
    return _gap(model["tower"](images), apart)


def _class_tokens(groups: Any, platform: Any) -> dict[str, Any]:
    """The same weights with class tokens kept and dropped: rows ``[B, positions, H]``."""
    kept = _build(tiny_module(pixel_shuffle=False, keep_class_tokens=True), groups, platform)
    dropped = _build(tiny_module(pixel_shuffle=False), groups, platform)
    dropped.load_state_dict(kept.state_dict())
    with_them = kept["tower"](_images(2)).view(2, 19, 16)
    without = dropped["tower"](_images(2)).view(2, 16, 16)
    return {"patches": _gap(with_them[:, 3:], without)}


def _shuffle() -> dict[str, Any]:
    """Ours against that of transformers, on a picture of 4 rows and 6 columns."""
    from transformers.models.nemotron_h_omni import modeling_nemotron_h_omni as omni

    features = torch.arange(2 * 4 * 6 * 5.0).view(2, 4, 6, 5)
    ours = pixel_shuffle(features.flatten(1, 2), columns=6)
    shuffle = omni.NemotronH_Omni_Reasoning_V3.pixel_shuffle
    return {
        "shape": list(ours.shape),
        "gap": _gap(ours, shuffle(None, features).flatten(1, 2)),
        "first": ours[0, 0].tolist(),
    }


def _noise(groups: Any, platform: Any, **options: Any) -> dict[str, bool]:
    """Whether the rows change with the seed, in training and in evaluation."""
    tower = _build(tiny_module(**options), groups, platform)["tower"]

    def changes() -> bool:
        outputs = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            outputs.append(tower(_images(2)))
        return not torch.equal(*outputs)

    return {"training": changes(), "evaluation": (tower.eval(), changes())[1]}


def _reference(side: int, groups: Any, platform: Any) -> dict[str, float]:
    """Features before the projector against transformers' RadioModel of the same weights."""
    from transformers import RadioConfig, RadioModel

    module = tiny_module(image_size=side, pixel_shuffle=False)
    options = module.options
    config = RadioConfig(
        hidden_size=options.tower_width,
        num_hidden_layers=options.tower_layers,
        num_attention_heads=options.tower_heads,
        patch_size=options.patch_size,
        image_size=side,
        max_img_size=options.max_image_size,
        num_cls_tokens=1,
        num_registers=options.class_tokens - 1,
        summary_idxs=[0],
        norm_mean=[0.0] * 3,
        norm_std=[1.0] * 3,
    )
    tower = _build(module, groups, platform)["tower"].eval()
    reference = RadioModel(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for name, parameter in reference.named_parameters():
            if "lambda1" in name:
                parameter.fill_(1)  # LayerScale, which RADIO's released files do not have
    tower.vit.load_state_dict(_from_transformers(reference.state_dict(), options))
    images = _images(2, side)
    expected = reference(images).features.flatten(0, 1)
    return {"gap": _gap(tower(images), expected), "size": float(expected.abs().max())}


def _from_transformers(weights: dict[str, torch.Tensor], options: Any) -> dict[str, torch.Tensor]:
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


def tensor_parallel(platform: Any) -> list[dict[str, Any]]:
    """tp 2 against tp 1 with the same weights, for both projectors; the second with crops."""
    groups = _groups({"whole": Grid(dp=2), "vision": Grid(tp=2)}, platform)
    cases: list[dict[str, Any]] = [{}, {"projector": "mlp", "position_crop": True}]
    return [_tensor_parallel(options, groups, platform) for options in cases]


def _tensor_parallel(
    options: dict[str, Any], groups: dict[str, Any], platform: Any
) -> dict[str, Any]:
    whole = _build(tiny_module(**options), groups["whole"], platform)
    split = _build(tiny_module(**options, tp=2), groups["vision"], platform)
    rank = groups["vision"].tp.rank()
    full = dict(whole.named_parameters())
    with torch.no_grad():
        for parameter in full.values():
            parameter.add_(0.1 * torch.randn_like(parameter))
            # Tensor-parallel ranks draw their weights from states of their own.
            dist.broadcast(parameter, src=0)

    def part(name: str, value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
        """This rank's part of the whole model's ``value``."""
        assert name in full
        if not getattr(parameter, "tensor_model_parallel", False):
            return value
        return value.chunk(2, dim=parameter.partition_dim)[rank]

    with torch.no_grad():
        for name, parameter in split.named_parameters():
            parameter.copy_(part(name, full[name], parameter))
    outputs = []
    for model in (whole, split):
        torch.manual_seed(5)
        outputs.append(_project(model, _images(2)))
    for output in outputs:
        output.square().sum().backward()
    gradients = {
        name: _gap(parameter.grad, part(name, full[name].grad, parameter))
        / float(full[name].grad.abs().max())
        for name, parameter in split.named_parameters()
    }
    sharded = {
        name: entry
        for name, entry in _sharded(split, groups["vision"]).items()
        if isinstance(entry, ShardedTensor)
    }
    return {
        "output": _gap(*outputs),
        "shape": list(outputs[1].shape),
        "gradients": gradients,
        "split": sum(value.numel() for value in split.parameters()),
        "whole": sum(value.numel() for value in full.values()),
        "wrongly_saved": [
            name
            for name, value in full.items()
            if list(sharded[name].global_shape)[-value.ndim :] != list(value.shape)
        ],
    }
