"""Ranks that must be equal are: configurations, the first batch, and every bit of the weights."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import torch
import torch.distributed as dist
from megatron.core.utils import unwrap_model

from mimo_core.contract import LANGUAGE
from mimo_core.data.microbatch_dataset import Batch
from mimo_core.errors import MimoError
from mimo_core.model.builder import BuildConfig
from mimo_core.model.mimo_model import RankMimoModel
from mimo_core.model.tensor_digests import digests
from mimo_core.planning.plan import Plan
from mimo_core.planning.plugin_answers import as_text, titled

_SHOWN = 8
"""Differences that a message shows."""
_ABSENT = "nothing"
_ANSWERS = "plugin.differs-by-rank"


# What plugins gave
def compare_configurations(plan: Plan, build: BuildConfig) -> None:
    """Compare the configurations that the plugins built each module with. Called by all ranks.

    Args:
        plan: What is run.
        build: Of this rank.

    Raises:
        MimoError: ranks of one pipeline stage have others; says each field, its values and ranks.
            Raised on all ranks.
    """
    mine = {}
    for name in build.modules:
        config = build.config_of(name)
        # Not by attribute, which would count as a read by the model.
        fields = dataclasses.fields(config) if dataclasses.is_dataclass(config) else ()
        mine[name] = {field.name: as_text(vars(config)[field.name]) for field in fields}
    lines = []
    for name, ranks in _alike(plan, _gathered(mine), ("pp",)):
        where = f"{titled(plan.graph.modules[name])}, hook 'build_submodule', config"
        lines += _differences(plan, where, ranks)
    _refuse(lines, "plugins build modules otherwise on some ranks", _ANSWERS)


def compare_batches(plan: Plan, batch: Batch) -> None:
    """Compare what the ranks read for a microbatch. Called by all ranks.

    Args:
        plan: What is run.
        batch: This rank's part of the same microbatch.

    Raises:
        MimoError: ranks that must compute on equal inputs have others, or ranks count other
            positions; says each with its values and ranks. Raised on all ranks.
    """
    inputs = {
        name: {"": "None"} if given is None else {key: _shown(one) for key, one in given.items()}
        for name, given in batch.inputs.items()
    }
    gathered = _gathered({"inputs": inputs, "rows": dict(batch.rows)})
    lines = []
    for name, ranks in _alike(plan, [one["inputs"] for one in gathered], ("dp", "pp")):
        where = f"{titled(plan.graph.modules[name])}, hook 'provide_batch', first batch,"
        lines += _differences(plan, where, ranks)
    for encoder in plan.graph.encoders:
        counts = _positions_of(plan, encoder, [one["rows"] for one in gathered])
        title = titled(plan.graph.modules[encoder])
        where = f"{title}, hook 'describe_module', positions, first batch,"
        lines += _differences(plan, where, counts, partly=True)
    _refuse(lines, "plugins answer otherwise on some ranks", _ANSWERS)


def _positions_of(
    plan: Plan, encoder: str, gathered: Sequence[Mapping[str, Sequence[int]]]
) -> dict[int, dict[str, str]]:
    """By rank: the positions of each sample of the microbatch that the rank counted."""
    found: dict[int, dict[str, str]] = {}
    for rank, rows in enumerate(gathered):
        for name in plan.layout.modules_on_rank(rank) if encoder in rows else ():
            if name in (encoder, LANGUAGE):
                counts = rows[encoder]
                begin = plan.layout.coordinates(rank, name)["dp"] * len(counts)
                found[rank] = {f"sample {begin + i}": str(n) for i, n in enumerate(counts)}
    return found


def _shown(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return as_text(value)
    content = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    digest = hashlib.blake2b(content, digest_size=6).hexdigest()
    return f"{str(value.dtype)[6:]} {list(value.shape)} (digest {digest})"


# Weights
@attrs.frozen(kw_only=True)
class _Tensors:
    """Some tensors of a module that are equal on all ranks of a group."""

    module: str
    copies: str
    """What the ranks of the group are, in messages."""
    group: dist.ProcessGroup
    tensors: Mapping[str, torch.Tensor]
    """By name."""
    exact: bool = True
    """Training keeps them equal to the last bit."""


def compare_weights(plan: Plan, model: RankMimoModel, when: str, *, trained: bool) -> list[str]:
    """Compare every parameter and saved buffer over the ranks that hold copies of it.

    Called by all ranks. Compared are digests; the tensors stay where they are.

    Args:
        plan: What is run.
        model: This rank's.
        when: For messages, such as ``before the first step``.
        trained: Steps were taken in this process. What tensor-parallel ranks compute each for
            themselves may then differ by rounding, where kernels add in any order (GPUs): it is
            returned instead of refused.

    Returns:
        A line for each tensor that differs but is not refused; the same on all ranks.

    Raises:
        MimoError: copies differ; says module, plugin, name, digests and ranks. Raised on all ranks.
    """
    device = next(model.parameters()).device
    mine: dict[tuple[str, str, str, bool], str] = {}
    found = list(_copies(model))
    # Names first: a collective of other sizes would hang.
    for one in found:
        if not all(_equal_over(one.group, _names(one).to(device))):
            number = int(_names(one).item()) % 2**64
            mine[one.module, one.copies, "names and shapes", True] = (
                f"{len(one.tensors)} tensors (digest {number:016x})"
            )
    if not _any_rank(bool(mine), device):
        for one in found:
            values = digests(list(one.tensors.values())).to(device)
            same = _equal_over(one.group, values)
            for name, number, equal in zip(one.tensors, values.tolist(), same, strict=True):
                if not equal:
                    refused = one.exact or not trained
                    mine[one.module, one.copies, name, refused] = f"digest {number % 2**64:016x}"
        if not _any_rank(bool(mine), device):
            return []
    told = _gathered(mine)
    lines: dict[bool, list[str]] = {True: [], False: []}
    for key in dict.fromkeys(key for one in told for key in one):
        module, copies, name, refused = key
        ranks = {at: {name: one[key]} for at, one in enumerate(told) if key in one}
        where = f"{titled(plan.graph.modules[module])}, {copies},"
        lines[refused] += _differences(plan, where, ranks)
    print(*lines[True], *lines[False], sep="\n", flush=True)
    _refuse(
        lines[True],
        f"ranks that must hold the same weights differ {when}",
        "plugin.weights-differ",
        "weights must follow from the seed, the options and the files only, which are the same on "
        "all ranks (hooks 'rng_prefix' and 'build_submodule')",
    )
    return lines[False]


def _copies(model: RankMimoModel) -> Iterator[_Tensors]:
    """What this rank holds copies of, by the group of ranks that hold the others."""
    for name, groups in model.groups.items():
        bare = model.bare(name)
        experts = {
            key: parameter
            for key, parameter in bare.named_parameters()
            if not getattr(parameter, "allreduce", True)
        }
        dense = {key: one for key, one in bare.named_parameters() if key not in experts}
        saved = bare.state_dict()
        buffers = {key: one for key, one in bare.named_buffers() if key in saved}
        whole = {
            key: one
            for key, one in dense.items()
            if not getattr(one, "tensor_model_parallel", False)
        }
        sets = [
            ("data-parallel copies", groups.dp_cp, dense | buffers, True),
            ("data-parallel copies of experts", groups.expt_dp, experts, True),
            ("not split over tensor-parallel ranks", groups.tp, whole, False),
        ]
        tied = _tied(bare) if name == LANGUAGE and groups.pp.size() > 1 else None
        if tied is not None and groups.embd is not None:
            sets.append(("embedding and output layer", groups.embd, {"tied weight": tied}, True))
        for copies, group, tensors, exact in sets:
            if group.size() > 1:
                yield _Tensors(
                    module=name, copies=copies, group=group, tensors=tensors, exact=exact
                )


def _tied(language: torch.nn.Module) -> torch.Tensor | None:
    """The embedding, where the output layer is tied to it; on the stages that have either."""
    if not getattr(language, "share_embeddings_and_output_weights", False):
        return None
    stage = unwrap_model(language)
    if not (getattr(stage, "pre_process", False) or getattr(stage, "post_process", False)):
        return None
    return stage.shared_embedding_or_output_weight()  # type: ignore[no-any-return, operator]


def _names(one: _Tensors) -> torch.Tensor:
    """A digest of names and shapes, int64 ``[1]``."""
    text = repr([(name, list(tensor.shape)) for name, tensor in one.tensors.items()])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "big", signed=True)
    return torch.tensor([number])


def _equal_over(group: dist.ProcessGroup, values: torch.Tensor) -> list[bool]:
    """Which of ``values``, int64 ``[n]``, are the same on all ranks of a group."""
    if not len(values):
        return []
    each = values.new_empty(group.size() * len(values))
    dist.all_gather_into_tensor(each, values, group=group)
    ranks = each.view(group.size(), -1)
    return (ranks == ranks[0]).all(0).tolist()  # type: ignore[no-any-return]


def _any_rank(here: bool, device: torch.device) -> bool:
    """Whether it is so on any rank of the world. Called by all ranks."""
    anywhere = torch.tensor([here], dtype=torch.int32, device=device)
    dist.all_reduce(anywhere, op=dist.ReduceOp.MAX)
    return bool(anywhere.item())


# Messages
def _alike(
    plan: Plan, gathered: Sequence[Mapping[str, Any]], dims: Sequence[str]
) -> Iterator[tuple[str, dict[int, Any]]]:
    """Groups of ranks that have the same place in these dimensions of a module's grid."""
    for name in plan.graph.modules:
        places: dict[tuple[int, ...], dict[int, Any]] = {}
        for rank in plan.layout.ranks(name):
            if name in gathered[rank]:
                at = plan.layout.coordinates(rank, name)
                place = tuple(at[dim] for dim in dims)
                places.setdefault(place, {})[rank] = gathered[rank][name]
        for ranks in places.values():
            yield name, ranks


def _differences(
    plan: Plan, where: str, ranks: Mapping[int, Mapping[str, str]], *, partly: bool = False
) -> list[str]:
    """A line for each entry that some of the ranks have otherwise.

    Args:
        plan: What is run.
        where: Before the entry's name.
        ranks: Entries by rank.
        partly: A rank need not have every entry.
    """
    lines = []
    for key in dict.fromkeys(key for entries in ranks.values() for key in entries):
        sides: dict[str, list[int]] = {}
        for rank, entries in ranks.items():
            if key in entries or not partly:
                sides.setdefault(entries.get(key, _ABSENT), []).append(rank)
        if len(sides) > 1:
            each = (f"{value} on {_few(plan, at)}" for value, at in sides.items())
            lines.append(f"  {f'{where} {key}'.rstrip()}: {', but '.join(each)}")
    return lines


def _few(plan: Plan, ranks: Sequence[int]) -> str:
    more = len(ranks) - _SHOWN
    named = ", ".join(plan.layout.rank_label(rank) for rank in ranks[:_SHOWN])
    return named + (f" and {more} more" if more > 0 else "")


def _refuse(lines: Sequence[str], what: str, code: str, way_out: str | None = None) -> None:
    if not lines:
        return
    more = len(lines) - _SHOWN
    raise MimoError(
        "\n".join(
            [
                f"{what}:",
                *lines[:_SHOWN],
                *([f"  and {more} more (all are in the log)"] if more > 0 else []),
                way_out
                or "an answer must follow from the hook's arguments only, not from the rank, the "
                "machine or the environment",
            ]
        ),
        code=code,
        differences=tuple(line.strip() for line in lines),
    )


def _gathered(mine: Any) -> list[Any]:
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, mine)
    return told
