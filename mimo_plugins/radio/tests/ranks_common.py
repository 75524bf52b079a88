"""What functions on ranks share: models as the core builds them, weights, differences."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from megatron.core.transformer.spec_utils import build_module
from mimo_plugin_radio.plugin import build_submodule, param_mappings
from safetensors.torch import load_file

from mimo_core import Grid
from mimo_core.distributed.process_groups import build_topology
from mimo_core.testing.weights import gradients_as_in_files, put_gradients, read_parts


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
    return {
        "patches": torch.cat(patches),
        "sizes": tuple(tuple(picture.shape[2:]) for picture in pictures),
    }


def sharded_state(model: torch.nn.ModuleDict, groups: Any) -> dict[str, Any]:
    sharded: dict[str, Any] = {}
    for name, part in model.items():
        metadata = {"dp_cp_group": groups.dp_cp}
        sharded |= part.sharded_state_dict(prefix=f"{name}.", metadata=metadata)
    return sharded


def largest_gap(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).abs().max())


def parts_of(model: torch.nn.ModuleDict) -> dict[Any, torch.nn.Module]:
    """Tower and projector by the words of ``freeze``."""
    return {"encoder": model["tower"], "projector": model["projector"]}


def compare_with_transformers(
    module: Any,
    model: torch.nn.ModuleDict,
    groups: Any,
    batch: dict[str, Any],
    theirs: dict[str, Any],
    lengths: Sequence[int] | None = None,
) -> dict[str, Any]:
    """The tower and transformers' RadioModel, begun from one directory as the latter saves it.

    Args:
        batch: What the tower's forward takes.
        theirs: The same pictures as RadioModel takes them.
        lengths: Rows of each picture, where they are told apart.

    Returns:
        ``gaps``: largest difference of the rows of each picture; ``size``: their largest value;
        ``gradients``: largest difference of each gradient by its name in the directory, as a share
        of that gradient's largest value.
    """
    weights = param_mappings(module)
    tower = {"encoder": model["tower"].eval()}
    reference = _reference_of(module.options)
    with tempfile.TemporaryDirectory() as folder:
        reference.save_pretrained(folder)
        read_parts(module, weights, tower, groups, Path(folder))
        expected = reference(**theirs).features.flatten(0, -2)
        rows = model["tower"](**batch)
        # Every value counts, each with a factor of its own.
        factors = torch.randn_like(expected)
        for output in (expected, rows):
            (output * factors).sum().backward()
        put_gradients([reference])
        reference.save_pretrained(folder)
        due = load_file(Path(folder) / "model.safetensors")
    gradients = gradients_as_in_files(module, weights, tower, groups)
    pairs = zip(rows.split(lengths or len(rows)), expected.split(lengths or len(rows)), strict=True)
    return {
        "gaps": [largest_gap(*pair) for pair in pairs],
        "size": float(expected.abs().max()),
        "gradients": {
            name: largest_gap(gradient, due[name]) / float(due[name].abs().max())
            for name, gradient in gradients.items()
        },
    }


def _reference_of(options: Any) -> Any:
    """transformers' RadioModel in evaluation, no weight at a value that hides its use."""
    from transformers import RadioConfig, RadioModel

    config = RadioConfig(
        hidden_size=options.tower_width,
        num_hidden_layers=options.tower_layers,
        num_attention_heads=options.tower_heads,
        patch_size=options.patch_size,
        max_img_size=options.max_image_size,
        num_cls_tokens=1,
        num_registers=options.class_tokens - 1,
        summary_idxs=[0],
        norm_mean=list(options.mean),
        norm_std=list(options.std),
    )
    reference = RadioModel(config).eval()
    # The tower gets normalised pixels.
    reference.make_preprocessor_external()
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if "lambda1" not in name:  # LayerScale, which RADIO's released files do not have
                parameter.add_(0.2 * torch.randn_like(parameter))
    return reference
