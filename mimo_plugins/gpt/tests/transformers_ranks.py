"""The model on grids against transformers' of the same directory; only here both are imported."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import attrs
import torch
import torch.distributed as dist
from gpt_modules import FAMILIES, ROWS, SEQUENCE, language_module
from gpt_ranks import Built, difference
from megatron.core.packed_seq_params import PackedSeqParams
from mimo_plugin_gpt import config_json, plugin
from mimo_plugin_gpt.model import architecture
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from mimo_core.contract import Grid
from mimo_core.distributed.context_parallel import local_positions
from mimo_core.model.packing import packing_kwargs
from mimo_core.testing.weights import put_gradients, tensors_as_in_files, unnamed
from mimo_core.weights.load import sharded_tensors


@attrs.frozen(kw_only=True)
class Rows:
    """Rows of tokens, and what transformers makes of them."""

    ids: Tensor
    """``[B, S]``."""
    lengths: list[int]
    """Of the samples that lie end to end in each row."""
    factors: Tensor
    """``[B, S, V]``: the loss is the sum of all logits, each with a factor of its own."""
    logits: Tensor
    """``[B, S, V]``."""
    gradients: Path
    """A directory with the gradient of each weight in the weight's place."""

    @property
    def packing(self) -> PackedSeqParams | None:
        if len(self.lengths) == 1:
            return None
        given = packing_kwargs(torch.tensor(self.lengths, dtype=torch.int32), torch.device("cpu"))
        return PackedSeqParams(qkv_format="thd", **given)


def two_ranks(
    platform: Any, rows: dict[str, list[int]], grids: dict[str, list[dict[str, int]]]
) -> dict[str, Any]:
    """Differences of each family of models on each grid, by kind of row.

    Args:
        platform: Of the ranks.
        rows: Lengths of the samples that lie end to end in each row.
        grids: By family, over both ranks.
    """
    results: dict[str, Any] = {}
    for family, sizes in grids.items():
        with tempfile.TemporaryDirectory() as own:
            # transformers writes on rank 0 alone, so all read there.
            shared = [own]
            dist.broadcast_object_list(shared)
            results[family] = _family(platform, family, rows, sizes, Path(shared[0]))
            dist.barrier()
    results["balanced"] = _moved_by_balancing(platform)
    results["recomputed"] = {kind: _recomputed(platform, kind) for kind in ("full", "selective")}
    return results


def _family(
    platform: Any, family: str, kinds: dict[str, list[int]], grids: list[Any], folder: Path
) -> dict[str, Any]:
    theirs = _transformers_model(family)
    theirs.save_pretrained(folder / "weights")  # type: ignore[operator]
    rows = {kind: _rows(theirs, lengths, folder / kind) for kind, lengths in kinds.items()}
    dist.barrier()
    shape = language_module(like=str(folder / "weights")).options.shape
    whole = Built(platform, Grid(dp=2), **FAMILIES[family])
    whole.read(folder / "weights")
    named = whole.module, plugin.param_mappings(whole.module), whole.parts, whole.groups
    back, held = tensors_as_in_files(*named), load_file(folder / "weights" / "model.safetensors")
    result: dict[str, Any] = {
        "as like": attrs.asdict(shape),
        "as options": attrs.asdict(whole.module.options.shape),
        "architecture": sorted(architecture(whole.module, platform)),
        "norms": sorted({key for key in _keys(whole) if "norm" in key}),
        "unnamed": unnamed(*named),
        "round trip": sorted(
            name for name in back.keys() | held.keys() if not torch.equal(back[name], held[name])
        ),
    }
    for sizes in grids:
        part = Built(platform, Grid(**sizes), **FAMILIES[family])
        result[str(sizes)] = {
            kind: _compare(platform, part, folder / "weights", one) for kind, one in rows.items()
        }
    return result


def _keys(built: Built) -> list[str]:
    saved = built.model.sharded_state_dict(metadata={"dp_cp_group": built.groups.dp_cp})
    return [item.key for item in sharded_tensors(saved)]


def _gradients(platform: Any, megatron: dict[str, Any] | None, **options: Any) -> dict[str, Tensor]:
    """Of a loss of the whole model, its weights and dropout from one seed."""
    built = Built(platform, Grid(dp=2), megatron, **FAMILIES["mixtral"], **options)
    ids = torch.arange(2 * SEQUENCE).view(2, SEQUENCE)
    built.logits(ids, labels=ids.roll(-1, 1)).sum().backward()
    return {name: parameter.grad for name, parameter in built.model.named_parameters()}  # type: ignore[misc]


def _moved_by_balancing(platform: Any) -> list[str]:
    """Weights of the last layer's experts and router whose gradient the loss changes."""
    plain, balanced = (_gradients(platform, None, router_aux_loss=at) for at in (0.0, 1.0))
    last = "decoder.layers.1.mlp."
    return sorted(
        name.removeprefix(last)
        for name in plain
        if name.startswith(last) and not torch.equal(plain[name], balanced[name])
    )


def _recomputed(platform: Any, kind: str) -> float:
    """Largest difference of a gradient, with dropout, from that of kept activations."""
    fields: dict[str, Any] = {"recompute_granularity": kind}
    if kind == "full":
        fields |= {"recompute_method": "uniform", "recompute_num_layers": 1}
    else:
        fields |= {"recompute_modules": ["core_attn", "moe"]}
    kept, again = (_gradients(platform, given, dropout=0.1) for given in (None, fields))
    return max((kept[name] - again[name]).abs().max().item() for name in kept)


def _transformers_model(family: str) -> nn.Module:
    """Of the config that the plugin exports; every parameter random, none at a value that hides its
    use."""
    module = language_module(**FAMILIES[family])
    config = config_json.config_of(module.options.shape, ROWS, SEQUENCE)
    kind = config.pop("model_type")
    model: nn.Module = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **config),
        attn_implementation="eager",
        **({"experts_implementation": "eager"} if module.options.shape.experts else {}),
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
            else:
                # Rows of the embedding are so small that the norms' epsilon shows.
                parameter.normal_(std=0.01 if "embed" in name else 0.2)
    return model


def _rows(theirs: nn.Module, lengths: list[int], folder: Path) -> Rows:
    """Two rows of one sample; or one of several, each of which transformers sees alone."""
    ids = torch.randint(0, ROWS, (2 if len(lengths) == 1 else 1, sum(lengths)))
    theirs.zero_grad()
    logits = torch.cat([theirs(sample).logits for sample in ids.split(lengths, dim=1)], dim=1)
    factors = torch.randn_like(logits)
    (logits * factors).sum().backward()
    kept = [parameter.detach().clone() for parameter in theirs.parameters()]
    put_gradients([theirs])
    theirs.save_pretrained(folder)  # type: ignore[operator]
    with torch.no_grad():
        for parameter, value in zip(theirs.parameters(), kept, strict=True):
            parameter.copy_(value)
    return Rows(ids=ids, lengths=lengths, factors=factors, logits=logits.detach(), gradients=folder)


def _compare(platform: Any, part: Built, weights: Path, rows: Rows) -> dict[str, Any]:
    part.read(weights)
    part.model.zero_grad()
    cp, tp = part.groups.cp, part.groups.tp
    own = local_positions(rows.lengths, cp.size(), cp.rank())
    expected, factors = (
        tensor[:, own].chunk(tp.size(), dim=-1)[tp.rank()] for tensor in (rows.logits, rows.factors)
    )
    stages = _on_stages if part.groups.pp.size() > 1 else _at_once
    # Every data-parallel rank takes all rows, and an equal share of the loss.
    logits = stages(part, rows.ids[:, own], rows.packing, factors / part.groups.dp.size())
    part.sum_gradients()
    # Gradients are read as weights are: each rank gets its own part of them.
    due = Built(platform, part.module.grid, **_options(part))
    due.read(rows.gradients)
    gradients = {
        name: difference(parameter.grad, due.model.get_parameter(name))  # type: ignore[arg-type]
        for name, parameter in part.model.named_parameters()
    }
    worst = max(gradients, key=lambda name: gradients[name])
    return {
        "logits": 0.0 if logits is None else difference(logits, expected),
        "gradient": [gradients[worst], worst],
        "parameters": sum(parameter.numel() for parameter in part.model.parameters()),
        "sequence_parallel": part.model.config.sequence_parallel,
    }


def _options(part: Built) -> dict[str, Any]:
    return attrs.asdict(part.module.options)


def _at_once(part: Built, ids: Tensor, packing: Any, factors: Tensor) -> Tensor:
    logits = part.logits(ids, packing)
    (logits * factors).sum().backward()
    return logits


def _on_stages(part: Built, ids: Tensor, packing: Any, factors: Tensor) -> Tensor | None:
    """Both ways through two pipeline stages, which are joined by hand."""
    hidden = torch.empty(ids.shape[1], ids.shape[0], part.module.options.shape.hidden_size)
    if part.groups.pp.rank() == 0:
        output = part.logits(ids, packing)
        dist.broadcast(output.detach(), 0)
        dist.broadcast(hidden, 1)
        output.backward(hidden)
        return None
    dist.broadcast(hidden, 0)
    part.model.set_input_tensor(hidden.requires_grad_())
    logits = _at_once(part, ids, packing, factors)
    assert hidden.grad is not None
    dist.broadcast(hidden.grad, 1)
    return logits
