"""Writes the weights of a checkpoint as a Hugging Face directory: the inverse of loading them."""

from __future__ import annotations

import json
import math
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mimo_core.checkpoint.keys import key_of
from mimo_core.contract import FreezePart
from mimo_core.errors import MimoError
from mimo_core.plugins.weight_map import ParamMapping, ParamMappings
from mimo_core.utils.safe_files import usual_mode
from mimo_core.weights.checkpoint_fit import misfits
from mimo_core.weights.checkpoint_with_frozen import CompletedCheckpoint
from mimo_core.weights.compare import DirectoryMatch, match
from mimo_core.weights.export_place import check_out, make_parent
from mimo_core.weights.safetensors_dir import INDEX, WHOLE, Entry, read_directory

MOST_BYTES = 5_000_000_000
"""Of a file; larger models are written as several."""


@attrs.frozen(kw_only=True)
class _Piece:
    """Tensors that are made, and written, together."""

    names: tuple[str, ...]
    bytes: int
    make: Callable[[], Sequence[Tensor]]


@attrs.frozen(kw_only=True)
class Exported:
    """What was written."""

    files: tuple[Path, ...]
    tensors: int
    """Made from the checkpoint's weights."""
    taken: tuple[str, ...]
    """Names that were taken as they are from the directory that was imitated."""


def export(
    folder: Path,
    out: Path,
    maps: Mapping[str, ParamMappings],
    like: Path | None = None,
    most_bytes: int = MOST_BYTES,
    moved: Mapping[str, str] | None = None,
) -> Exported:
    """Write a checkpoint's modules as a directory of safetensors files.

    One tensor of the checkpoint is read at a time, and one file is held in memory.

    Args:
        folder: The checkpoint (``iter_…``).
        out: The directory to make; it appears when it is whole.
        maps: The modules to write, by name.
        like: A directory whose prefixes, ``config.json`` and other names are taken.
        most_bytes: Of a file.
        moved: Where the checkpoint reads weights that it does not hold; see
            :class:`CompletedCheckpoint`.

    Raises:
        MimoError: the checkpoint, or ``like``, does not hold these modules; ``out`` is not empty,
            is inside a checkpoint or cannot be made.
        UnreadableWeightsError: ``like`` holds no safetensors.
    """
    check_out(out)
    make_parent(out)
    checkpoint = CompletedCheckpoint(folder, maps, moved)
    mistakes = [
        line
        for name, weights in maps.items()
        for line in misfits(name, weights, checkpoint.keys, checkpoint.shape)
    ]
    if mistakes:
        message = _lines(f"{folder} does not hold what the recipe says", mistakes)
        raise MimoError(
            message,
            code="checkpoint.other-model",
            checkpoint=str(folder),
            differences=tuple(mistakes),
        )
    entries = {} if like is None else read_directory(like)
    matches = {} if like is None else _matches(like, maps)
    pieces = [
        piece
        for name, weights in maps.items()
        for piece in _pieces(checkpoint, name, weights, matches.get(name), len(maps) > 1)
    ]
    names = [name for piece in pieces for name in piece.names]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise MimoError(
            _lines("several modules have one name; write them apart with --module", twice),
            code="export.same-names",
            names=tuple(twice),
        )
    made = set(names)
    taken = tuple(name for name in entries if name not in made)
    pieces += [_copied(name, entries[name]) for name in taken]
    config = next(iter(maps.values())).exported_config if len(maps) == 1 and like is None else {}
    files = _write(pieces, out, like, config, most_bytes)
    return Exported(files=files, tensors=len(names), taken=taken)


def _lines(said: str, lines: Sequence[str]) -> str:
    return said + ":\n" + "\n".join(f"  {line}" for line in lines)


def _matches(like: Path, maps: Mapping[str, ParamMappings]) -> dict[str, DirectoryMatch]:
    found = {name: match(weights, like) for name, weights in maps.items()}
    mistakes = [f"{name}: {said}" for name, held in found.items() for said in held.mistakes]
    if mistakes:
        message = _lines(f"{like} is a directory of another model", mistakes)
        raise MimoError(
            message, code="weights.mismatch", directory=str(like), differences=tuple(mistakes)
        )
    return found


def _pieces(
    checkpoint: CompletedCheckpoint,
    module: str,
    weights: ParamMappings,
    like: DirectoryMatch | None,
    several: bool,
) -> Iterator[_Piece]:
    main: FreezePart = weights.rules[0].component
    prefixes = {main: weights.prefix if several else ""} | dict(like.prefixes if like else {})
    for rule in weights.rules:
        prefix = prefixes.get(rule.component, "")
        keys = [(key_of(module, rule, stored), stored.index) for stored in rule.tensors]
        (dtype,) = {checkpoint.dtype(key) for key, _ in keys}
        yield _Piece(
            names=tuple(prefix + name for name in rule.files),
            bytes=dtype.itemsize * sum(math.prod(shape) for shape in rule.files.values()),
            make=lambda rule=rule, keys=keys: _saved(checkpoint, rule, keys),  # type: ignore[misc]
        )
    for constant in weights.constants:
        if constant.exported and like is None:
            value = torch.tensor(constant.values).expand(math.prod(constant.shape))
            yield _Piece(
                names=(prefixes[main] + constant.name,),
                bytes=4 * value.numel(),
                make=lambda value=value, shape=constant.shape: [value.reshape(shape)],  # type: ignore[misc]
            )


def _saved(
    checkpoint: CompletedCheckpoint, rule: ParamMapping, keys: Sequence[tuple[str, tuple[int, ...]]]
) -> Sequence[Tensor]:
    tensors = rule.save([checkpoint.read(*key) for key in keys])
    shapes = [tuple(tensor.shape) for tensor in tensors]
    assert shapes == list(rule.files.values()), (list(rule.files), shapes)
    return tensors


def _copied(name: str, entry: Entry) -> _Piece:
    def make() -> Sequence[Tensor]:
        with safe_open(entry.file, framework="pt") as file:
            return [file.get_tensor(name)]

    return _Piece(names=(name,), bytes=entry.end - entry.begin, make=make)


def _write(
    pieces: Sequence[_Piece],
    out: Path,
    like: Path | None,
    config: Mapping[str, Any],
    most_bytes: int,
) -> tuple[Path, ...]:
    """All files, in a directory that gets its name when they are whole."""
    parts: list[list[_Piece]] = [[]]
    for piece in pieces:
        if parts[-1] and sum(other.bytes for other in parts[-1]) + piece.bytes > most_bytes:
            parts.append([])
        parts[-1].append(piece)
    draft = out.parent / f".{out.name}-{secrets.token_hex(4)}"
    draft.mkdir()
    try:
        places: dict[str, str] = {}
        for number, part in enumerate(parts, start=1):
            whole = len(parts) == 1
            file = WHOLE if whole else f"model-{number:05d}-of-{len(parts):05d}.safetensors"
            places |= {name: file for piece in part for name in piece.names}
            _write_file(part, draft / file)
        if len(parts) > 1:
            size = sum(piece.bytes for piece in pieces)
            index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(places.items()))}
            (draft / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        if like is not None and (like / "config.json").exists():
            shutil.copy(like / "config.json", draft)
        if config:
            text = json.dumps(dict(config), indent=2, sort_keys=True) + "\n"
            (draft / "config.json").write_text(text, encoding="utf-8")
        mode = usual_mode(draft)
        for path in draft.iterdir():
            path.chmod(mode)  # safetensors and shutil.copy give other ones
        draft.replace(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return tuple(sorted(out.iterdir()))


def _write_file(pieces: Sequence[_Piece], path: Path) -> None:
    # Copies: safetensors takes no views, and what a conversion gives may be some.
    tensors = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for piece in pieces
        for name, tensor in zip(piece.names, piece.make(), strict=True)
    }
    save_file(tensors, path, metadata={"format": "pt"})
