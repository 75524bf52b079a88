"""Names of linear layers: the same for every grid, told from the keys of checkpoints.

A layer's name is the key of its weight below the part, without ``.weight``, with numbers where
Megatron stacks layers or experts under one key: ``decoder.layers.3.mlp.linear_fc1``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from mimo_core import MimoError, ModuleConfig, suggestion
from mimo_plugin_lora.options import NAME, options_of

_STACKS = ("layers", "experts")
"""Words of a key after which a number stands where the tensors are not stacked."""
_SHOWN = 12
"""Names that a message lists, the nearest ones if there are more."""


def numbered(key: str, index: Sequence[int]) -> str:
    """A key with its places on stacked axes written into it."""
    words = key.split(".")
    places = [
        at
        for at, (word, after) in enumerate(zip(words, [*words[1:], ""], strict=True))
        if word in _STACKS and after != word and not after.isdigit()
    ]
    places = places[len(places) - len(index) :] if len(index) <= len(places) else []
    if not places:
        return ".".join([*words, *map(str, index)])
    for place, number in zip(reversed(places), reversed(index), strict=True):
        words.insert(place + 1, str(number))
    return ".".join(words)


def split_key(key: str, leaf: str = "weight") -> tuple[str, str] | None:
    """``(layer, piece)`` of a weight's key; the piece is ``.NAME`` where Megatron saves the rows
    of a weight apart, else empty. ``None`` of a key of something else."""
    layer, _, piece = key.rpartition(f".{leaf}")
    return (layer, piece) if layer and piece[:1] in ("", ".", "_") else None


def is_target(name: str, targets: Iterable[str]) -> bool:
    """Whether a layer is named by one of the patterns."""
    return any(fnmatchcase(name, target) for target in targets)


def unmatched(module: ModuleConfig, names: Iterable[str]) -> MimoError | None:
    """The error where a pattern names no layer, with the names that there are."""
    names = [*names]
    known = sorted({re.sub(r"\.\d+(?=\.|$)", ".*", name) for name in names})
    for target in options_of(module).targets:
        if any(fnmatchcase(name, target) for name in names):
            continue
        nearest = get_close_matches(target, known, n=_SHOWN, cutoff=0)
        shown = ", ".join(nearest if len(known) > _SHOWN else known) + (
            f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
        )
        last = {name.rpartition(".")[2] for name in known}
        return MimoError(
            f"{target!r} names no linear layer of module {module.name!r}."
            f"{suggestion(target.rpartition('.')[2], last)} Its layers: {shown or 'none'}",
            place(module, "targets"),
            code="lora.no-such-layer",
            module=module.name,
            target=target,
            known=tuple(known),
        )
    return None


def excess(module: ModuleConfig, name: str, rows: int, columns: int) -> MimoError | None:
    """The error where an adapter's rank exceeds that of its layer, all tp ranks together."""
    rank = options_of(module).rank
    if rank <= min(rows, columns):
        return None
    return MimoError(
        f"rank {rank} exceeds the smaller side of {name!r}, which is {rows} x {columns} (out x "
        f"in): no sum of its adapter has a rank above {min(rows, columns)}; give a smaller rank, "
        "or leave the layer out of targets",
        place(module, "rank"),
        code="lora.rank-too-large",
        module=module.name,
        layer=name,
        rank=rank,
        most=min(rows, columns),
    )


def place(module: ModuleConfig, *keys: str) -> tuple[str, ...]:
    """Where the recipe says it."""
    return ("modules", module.name, "wrappers", NAME, *keys)
