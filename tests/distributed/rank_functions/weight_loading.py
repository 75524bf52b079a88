"""What ``test_weights_in_models`` runs on ranks."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def whole_model(platform: Any, recipe: str, site: str) -> dict[str, Any]:
    """The recipe's model in one process against transformers', begun from one directory.

    Returns:
        ``logits``: largest difference as a share of the largest logit; ``losses``: both;
        ``gradients``: largest difference of each gradient by its name in the directory, as a share
        of that gradient's largest value.
    """
    # First: transformers must find no mamba_ssm, to whose name the plugin will answer.
    from tests.helpers import hugging_face_vlm as vlm  # isort: split
    from safetensors.torch import load_file

    from mimo_core.testing.weights import gradients_as_in_files, put_gradients, read_parts

    generator = torch.Generator().manual_seed(5)
    grids = [(2, 4), (4, 4), (6, 2)]
    patches = torch.randn(sum(r * c for r, c in grids), 3 * 4**2, generator=generator)
    rows = [vlm.PLACEHOLDER] * (len(patches) // 4)
    ids = torch.tensor([[*b"ab", *rows[:5], *b"cde", *rows[5:], *b"fghij"]])
    with tempfile.TemporaryDirectory() as folder:
        vlm.save_random(Path(folder))
        theirs = vlm.load(Path(folder))
        pictures = {"pixel_values": patches, "image_grid_hw": torch.tensor(grids)}
        expected = theirs(input_ids=ids, **pictures, use_cache=False).logits
        modules, maps, parts, groups = _parts(platform, recipe, site)
        for name, module in modules.items():
            read_parts(module, maps[name], parts[name], groups[name], Path(folder))
        logits = _logits(parts, ids, patches, grids)
        losses = [F.cross_entropy(each[0, :-1], ids[0, 1:]) for each in (logits, expected)]
        for loss in losses:
            loss.backward()
        put_gradients([theirs])
        theirs.save_pretrained(folder)
        due = load_file(Path(folder) / "model.safetensors")
    ours: dict[str, Tensor] = {}
    for name, module in modules.items():
        for part, model in parts[name].items():
            prefix = "" if part == "projector" else maps[name].prefix
            told = gradients_as_in_files(module, maps[name], {part: model}, groups[name])
            ours |= {prefix + short: tensor for short, tensor in told.items()}
    return {
        "logits": _share(logits, expected),
        "losses": [loss.item() for loss in losses],
        "gradients": {name: _share(gradient, due[name]) for name, gradient in ours.items()},
    }


def _parts(platform: Any, recipe: str, site: str) -> Any:
    """Modules of the recipe, each whole on this rank: descriptions, maps, models, groups."""
    import sys

    from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
    from megatron.core.transformer.spec_utils import build_module

    from mimo_core.contract import EncoderSpec, Grid
    from mimo_core.distributed.process_groups import build_topology
    from mimo_core.planning.plan import make_plan

    sys.path.insert(0, site)
    one = [f"modules.{name}.grid={{tp: 1, dp: 1, ep: 1}}" for name in ("vision", "language")]
    plan = make_plan(recipe, one)
    modules = plan.graph.modules
    grids = dict.fromkeys(modules, Grid())
    groups = build_topology(grids, dict.fromkeys(modules, 0), platform.backend).groups
    model_parallel_cuda_manual_seed(7, tp_rank=0, ep_rank=0, etp_rank=0)
    parts: dict[str, dict[Any, Any]] = {}
    maps = {}
    for name, module in modules.items():
        given: dict[str, Any] = {"module": module, "groups": groups[name], "platform": platform}
        spec = plan.host.call_hook("build_submodule", module.plugin, **given)
        if isinstance(spec, EncoderSpec):
            both = {"encoder": spec.tower, "projector": spec.projector}
            parts[name] = {part: build_module(each) for part, each in both.items()}
        else:
            parts[name] = {"language": build_module(spec)}
        maps[name] = plan.host.call_hook("param_mappings", module.plugin, module=module)
    return modules, maps, parts, groups


def _logits(parts: Any, ids: Tensor, patches: Tensor, grids: Any) -> Tensor:
    """``[1, S, V]``: the pictures' rows in the place of their ids."""
    from tests.helpers.hugging_face_vlm import PLACEHOLDER

    sizes = [(4 * rows, 4 * columns) for rows, columns in grids]
    tower = parts["vision"]["encoder"]
    features = tower(patches=patches, sizes=sizes)
    language = parts["language"]["language"]
    positions = torch.arange(ids.shape[1])[None]
    mask = (ids == PLACEHOLDER).T[..., None]
    embedded = language.embedding(ids.masked_fill(ids == PLACEHOLDER, 0), positions)
    filled = embedded.masked_scatter(mask, parts["vision"]["projector"](features))
    result: Tensor = language(None, positions, None, decoder_input=filled)
    return result


def _share(actual: Tensor, expected: Tensor) -> float:
    """Largest difference as a share of the largest value; 0 where both are 0."""
    gap = (actual - expected).abs().max()
    return (gap / expected.abs().max()).item() if gap else 0.0


def save_layouts(
    platform: Any, recipe: str, site: str, overrides: list[str], layouts: dict[str, list[str]]
) -> list[str]:
    """Begin with the recipe's directories on each layout, and save it as a checkpoint folder."""
    import sys

    import torch.distributed as dist
    from megatron.core.dist_checkpointing import save

    from mimo_core.distributed.process_groups import build_topology
    from mimo_core.model.builder import BuildConfig, Builder
    from mimo_core.planning.plan import make_plan
    from mimo_core.weights.pretrained import directories

    sys.path.insert(0, site)
    dtypes = set()
    for folder, layout in layouts.items():
        plan = make_plan(recipe, [*overrides, *layout], world_size=dist.get_world_size())
        topology = build_topology(plan.layout.grids, plan.layout.rank_offsets, platform.backend)
        config = BuildConfig(
            host=plan.host, graph=plan.graph, topology=topology, platform=platform, seed=1
        )
        config.weights = directories(plan, None)
        (model,) = Builder(config).build_distributed_models(
            topology.collection, wrap_with_ddp=False
        )
        if dist.get_rank() == 0:
            Path(folder).mkdir()
        dist.barrier()
        save(model.sharded_state_dict(), folder)
        dtypes |= {str(parameter.dtype) for parameter in model.parameters()}
    return sorted(dtypes)
