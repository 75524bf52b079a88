"""What the tests run on two ranks; results go back as JSON values."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import attrs
import torch
import torch.distributed as dist
from lora_modules import (
    GATED,
    HOST,
    LANGUAGE,
    TARGETS,
    VISION,
    lora,
    transformers_module,
)
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from megatron.core.transformer.spec_utils import build_module
from safetensors.torch import save_file
from torch import Tensor, nn

from mimo_core import EncoderSpec, Grid, ModuleConfig
from mimo_core.distributed.process_groups import build_topology
from mimo_core.errors import MimoError
from mimo_core.testing.weights import put_gradients, read_parts, tensors_as_in_files, unnamed
from mimo_core.weights.load import sharded_tensors

RANK, ALPHA = 3, 12.0
FULL = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}


def two_ranks(platform: Any) -> dict[str, Any]:
    """Each module with adapters: tp 2 against tp 1, merged, recomputed."""
    grids = {"whole": Grid(dp=2), "split": Grid(tp=2, ep=2), "vision": Grid(tp=2)}
    groups = dict(build_topology(grids, dict.fromkeys(grids, 0), platform.backend).groups)
    model_parallel_cuda_manual_seed(7, tp_rank=groups["split"].tp.rank(), ep_rank=0, etp_rank=0)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for module in (transformers_module(Path(folder)), VISION, GATED, LANGUAGE):
            wrappers = lora(*TARGETS[module.plugin], rank=RANK, alpha=ALPHA)
            adapted = attrs.evolve(module, wrappers=wrappers)
            torch.manual_seed(0)
            whole = built(adapted, grids["whole"], groups["whole"], platform)
            plain = built(module, grids["whole"], groups["whole"], platform)
            begin_alike(whole, plain)
            untrained = (outputs(whole, module) - outputs(plain, module)).abs().max().item()
            make_up(whole)
            found[module.plugin] = {
                "untrained": untrained,
                "unnamed": unnamed(adapted, map_of(adapted), parts(whole, module), groups["whole"]),
                "merged": merged(whole, plain, adapted, groups["whole"]),
            }
            if (
                "tp"
                in HOST.call_hook(
                    "describe_module", module.plugin, module=module
                ).supported_parallelism
            ):
                grid = grids["split" if module.is_language else "vision"]
                split = built(adapted, grid, groups["split"], platform)
                found[module.plugin] |= compared(whole, split, adapted, groups)
    megatron = attrs.evolve(adapted, megatron=FULL)
    again = built(megatron, grids["whole"], groups["whole"], platform)
    found["recomputed"] = compared(whole, again, adapted, groups | {"split": groups["whole"]})
    found["refused"] = refused(platform, groups["split"])
    return found


def one_rank(platform: Any) -> dict[str, Any]:
    """Each module with adapters, merged: on a GPU with layers of TransformerEngine, which has its
    norms inside of them and no experts that can be adapted."""
    groups = build_topology({"one": Grid()}, {"one": 0}, platform.backend).groups["one"]
    model_parallel_cuda_manual_seed(7, tp_rank=0, ep_rank=0, etp_rank=0)
    found = {}
    for module in (
        VISION,
        attrs.evolve(LANGUAGE, options=attrs.evolve(LANGUAGE.options, pattern="*-")),
    ):
        adapted = attrs.evolve(
            module, wrappers=lora(*TARGETS[module.plugin], rank=RANK, alpha=ALPHA)
        )
        whole, plain = (built(one, Grid(), groups, platform) for one in (adapted, module))
        begin_alike(whole, plain)
        make_up(whole)
        outputs(whole, module).sum().backward()
        found[module.plugin] = {
            "unnamed": unnamed(adapted, map_of(adapted), parts(whole, module), groups),
            "merged": merged(whole, plain, adapted, groups),
            "without": [
                name
                for name, value in whole.named_parameters()
                if value.requires_grad and (value.grad is None or not value.grad.any())
            ],
            "layers": sorted(
                {type(layer).__mro__[2].__name__ for layer in whole._lora_layers.values()}
            ),  # type: ignore[union-attr, operator]
        }
    return found


def built(module: ModuleConfig, grid: Grid, groups: Any, platform: Any) -> nn.Module:
    """The tower, or the language model, as the core builds it."""
    module = attrs.evolve(module, grid=grid)
    part = HOST.call_hook(
        "build_submodule", module.plugin, module=module, groups=groups, platform=platform
    )
    model: nn.Module = build_module(part.tower if isinstance(part, EncoderSpec) else part)
    model.to(platform.device)
    model.groups = groups
    return model


def parts(model: nn.Module, module: ModuleConfig) -> dict[Any, nn.Module]:
    return {"language" if module.is_language else "encoder": model}


def map_of(module: ModuleConfig) -> Any:
    return HOST.call_hook("param_mappings", module.plugin, module=module)


def outputs(model: nn.Module, module: ModuleConfig) -> Tensor:
    """Rows of two pictures, or losses of two texts."""
    generator = torch.Generator().manual_seed(3)
    device = next(model.parameters()).device
    if not module.is_language:
        images = torch.randn(2, 3, 16, 16, generator=generator)
        name = "images" if module.plugin == "radio" else "pixel_values"
        return model(**{name: images.to(device)})  # type: ignore[no-any-return]
    ids = torch.randint(0, 200, (2, 12), generator=generator).to(device)
    places = torch.arange(12, device=device).expand_as(ids)
    return model(ids, places, None, labels=ids.roll(-1, 1))  # type: ignore[no-any-return]


def tensors(model: nn.Module) -> list[Any]:
    """What this rank has of each tensor of a checkpoint; a gated layer's halves are two parts."""
    state = model.sharded_state_dict(metadata={"dp_cp_group": model.groups.dp_cp})  # type: ignore[operator]
    return list(sharded_tensors(state))


def place_of(part: Any) -> tuple[str, tuple[int, ...]]:
    return part.key, tuple(part.global_offset[: part.prepend_axis_num])


def slice_of(part: Any) -> Any:
    return part.global_slice()[part.prepend_axis_num :]


@torch.no_grad()
def full_of(whole: nn.Module) -> dict[tuple[str, tuple[int, ...]], Tensor]:
    """Whole tensors, of a model that is whole on this rank."""
    found: dict[tuple[str, tuple[int, ...]], Tensor] = {}
    for part in tensors(whole):
        shape = part.global_shape[part.prepend_axis_num :]
        tensor = found.setdefault(place_of(part), part.data.new_empty(shape))
        tensor[slice_of(part)] = part.data
    return found


@torch.no_grad()
def take(model: nn.Module, whole: nn.Module) -> None:
    """This rank's part of all that both have."""
    full = full_of(whole)
    for part in tensors(model):
        if place_of(part) in full:
            part.data.copy_(full[place_of(part)][slice_of(part)])


def begin_alike(whole: nn.Module, plain: nn.Module) -> None:
    """The same weights on both ranks, and in the plain model those below the adapters."""
    for parameter in whole.parameters():
        # Tensor-parallel ranks draw their weights from states of their own.
        dist.broadcast(parameter.data, src=0)
    take(plain, whole)


@torch.no_grad()
def make_up(whole: nn.Module) -> None:
    """Adapters as if they had learned, the same on both ranks."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in whole.named_parameters():
        if name.endswith("lora_b"):
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(0.3 * drawn.to(parameter.device))


def merged(
    whole: nn.Module, plain: nn.Module, module: ModuleConfig, groups: Any
) -> dict[str, float]:
    """The adapted model, and a plain one that begins with what is written of it."""
    with tempfile.TemporaryDirectory() as folder:
        files = tensors_as_in_files(module, map_of(module), parts(whole, module), groups)
        save_file(
            {n: t.cpu().contiguous() for n, t in files.items()}, Path(folder) / "model.safetensors"
        )
        bare = attrs.evolve(module, wrappers={})
        before = outputs(plain, module)
        read_parts(bare, map_of(bare), parts(plain, module), groups, Path(folder))
    now, due = outputs(plain, module), outputs(whole, module)
    return {"gap": float((now - due).abs().max()), "moved": float((now - before).abs().max())}


def compared(
    whole: nn.Module, split: nn.Module, module: ModuleConfig, groups: Any
) -> dict[str, Any]:
    """Outputs, and gradients by the keys of checkpoints, as shares of each one's largest."""
    take(split, whole)
    models = {"whole": whole, "split": split}
    results = []
    for name, model in models.items():
        model.zero_grad()
        result = outputs(model, module)
        factors = torch.randn(result.shape, generator=torch.Generator().manual_seed(9))
        (result * factors).sum().backward()
        results.append(result)
        for parameter in model.parameters():
            if getattr(parameter, "sequence_parallel", False) and parameter.grad is not None:
                dist.all_reduce(parameter.grad, group=groups[name].tp)
    learning = {name for name, parameter in split.named_parameters() if parameter.requires_grad}
    kept = {name: tensor.detach().clone() for name, tensor in whole.named_parameters()}
    put_gradients(models.values())
    full = full_of(whole)
    gaps: dict[str, float | None] = {}
    for part in tensors(split):
        if "lora_" in part.key:
            due = full[place_of(part)]
            gap, largest = (
                float((part.data - due[slice_of(part)]).abs().max()),
                float(due.abs().max()),
            )
            gaps[part.key] = max(gap / largest, gaps.get(part.key) or 0.0) if largest else None
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            parameter.copy_(kept[name])
    return {
        "output": float((results[0] - results[1]).abs().max()),
        "gradients": gaps,
        "learning": sorted({name.rpartition(".")[2] for name in learning}),
        "held": sum(value.numel() for n, value in split.named_parameters() if n in learning),
        "whole": sum(value.numel() for value in whole.parameters() if value.requires_grad),
    }


def refused(platform: Any, groups: Any) -> dict[str, str]:
    """What is said where targets are wrong."""
    said = {}
    for target in ("decoder.layers.*.linear_qkw", "*.router", "*.embeder"):
        module = attrs.evolve(LANGUAGE, wrappers=lora(target))
        try:
            built(module, Grid(tp=2, ep=2), groups, platform)
        except MimoError as error:
            said[target] = str(error)
    # The row-parallel layer has 8 columns on each of the two ranks, and is 32 x 16.
    module = attrs.evolve(LANGUAGE, wrappers=lora("*.shared_experts.linear_fc2", rank=17))
    try:
        built(module, Grid(tp=2, ep=2), groups, platform)
    except MimoError as error:
        said["rank"] = str(error)
    return said
