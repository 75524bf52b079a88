"""Checkpoints as they lie in a folder: which are complete, and which of them is the newest.

Megatron's tracker file is truncated in place and says nothing of what it names. A checkpoint is
complete where its manifest is: rank 0 writes it last and renames it into place, and what it says of
the files holds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from mimo_core.errors import CheckpointError

TRACKER = "latest_checkpointed_iteration.txt"
"""Megatron's file that names the newest checkpoint of a folder."""
MANIFEST = "mimo.json"
"""In each complete checkpoint."""
FORMAT = 2
"""Of the manifest."""


@attrs.frozen(kw_only=True)
class Manifest:
    """What a checkpoint holds, and what the run was that saved it."""

    format: int
    iteration: int
    consumed_samples: int
    recipe: Mapping[str, Any]
    """The resolved recipe."""
    layout: Mapping[str, Any]
    """As it really was: ``kind``, ``world_size``, ``device`` (``cpu`` or ``cuda``), and of each of
    ``modules`` its ``grid`` and ``first_rank``."""
    plugins: Mapping[str, str]
    """Versions by name."""
    plugins_digest: str
    tokenizer: str
    """Its digest."""
    samples: Mapping[str, Any]
    """``[length, digest]`` of each split."""
    optimizer: str
    """How the optimizer's state is cut: megatron's ``distrib_optim_sharding_type``."""
    tensors: Mapping[str, Mapping[str, Any]]
    """Global ``shape`` and ``dtype`` by key."""
    objects: tuple[str, ...]
    """Keys of what is no tensor."""
    files: Mapping[str, int]
    """Bytes by path in the checkpoint."""
    random_states: tuple[str, ...]
    """The file of each world rank's random state."""
    left_out: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict)
    """Weights that do not learn and are read again elsewhere: ``shape``, ``dtype`` and number of
    their ``origin`` by key."""
    origins: tuple[Mapping[str, Any], ...] = ()
    """Where: see ``mimo_core.weights.origins.Origin``."""


class Incomplete(ValueError):
    """A folder is no complete checkpoint; says why."""


@attrs.frozen(kw_only=True)
class Newest:
    """The checkpoint of a folder to go on from, if there is one."""

    checkpoints: Path
    manifest: Manifest | None
    told: tuple[str, ...] = ()
    """What a person should know of the other checkpoints there, a line each."""

    @property
    def iteration(self) -> int | None:
        return None if self.manifest is None else self.manifest.iteration

    @property
    def path(self) -> Path:
        """Of the checkpoint, which must be there."""
        assert self.manifest is not None
        return checkpoint_path(self.checkpoints, self.manifest.iteration)


def way_back(checkpoints: Path, iteration: int) -> str:
    """What to do where the checkpoint of ``iteration`` cannot be used."""
    for earlier in sorted(_iterations(checkpoints), reverse=True):
        if earlier < iteration and is_complete(checkpoint_path(checkpoints, earlier)):
            return (
                f"the one before it that is complete is of iteration {earlier}; to go on from "
                f"there: echo {earlier} > {checkpoints / TRACKER}"
            )
    return "there is none before it to go back to; begin anew with another --run-dir"


def is_complete(checkpoint: Path) -> bool:
    """Whether a folder is a complete checkpoint."""
    try:
        read_manifest(checkpoint)
    except (Incomplete, CheckpointError):
        return False
    return True


def checkpoint_path(checkpoints: Path, iteration: int) -> Path:
    """Where megatron puts the checkpoint of an iteration."""
    return checkpoints / f"iter_{iteration:07d}"


def newest(checkpoints: Path) -> Newest:
    """The complete checkpoint that the tracker names, else the complete one of the highest
    iteration; that also where the tracker is older, and so was not yet written.

    A run that is killed may leave the tracker empty or old, or a folder half-written.

    Raises:
        CheckpointError: a checkpoint there is of another format than this version reads.
    """
    there = sorted(_iterations(checkpoints), reverse=True)
    named = _named(checkpoints)
    order = [named] if named in there else []
    order += [iteration for iteration in there if iteration != named]
    found = None
    told: dict[int, str] = {}
    for iteration in order:
        if found is not None and iteration < found.iteration:
            break
        path = checkpoint_path(checkpoints, iteration)
        try:
            manifest = read_manifest(path)
        except Incomplete as why:
            told[iteration] = f"{path} is no complete checkpoint: {why}"
            continue
        if found is not None and _written(path / MANIFEST) > _written(checkpoints / TRACKER):
            found = manifest
        elif found is not None:
            told[iteration] = f"{path} is later, but {TRACKER} names iteration {found.iteration}"
        found = found or manifest
    return Newest(
        checkpoints=checkpoints,
        manifest=found,
        told=tuple(told[iteration] for iteration in sorted(told)),
    )


def read_manifest(checkpoint: Path) -> Manifest:
    """The manifest of a complete checkpoint.

    Raises:
        Incomplete: there is none, or a file is missing or of another size than it says.
        CheckpointError: it is of another format than this version reads.
    """
    try:
        values = json.loads((checkpoint / MANIFEST).read_text())
    except FileNotFoundError:
        raise Incomplete(f"{MANIFEST}, which is written last, is missing") from None
    except ValueError:
        raise Incomplete(f"{MANIFEST} cannot be read") from None
    if not isinstance(values, dict) or "format" not in values:
        raise Incomplete(f"{MANIFEST} says no format")
    if values["format"] != FORMAT:
        raise CheckpointError(
            f"{checkpoint / MANIFEST} has format {values['format']}, and this version of mimo-core "
            f"reads format {FORMAT}; use the version that saved it"
        )
    try:
        manifest = Manifest(**values)
    except TypeError:
        raise Incomplete(f"{MANIFEST} lacks some of its entries") from None
    if checkpoint.name != checkpoint_path(checkpoint.parent, manifest.iteration).name:
        raise Incomplete(f"its {MANIFEST} is of iteration {manifest.iteration}")
    for name, size in sorted(manifest.files.items()):
        try:
            found = (checkpoint / name).stat().st_size
        except FileNotFoundError:
            raise Incomplete(f"{name} is missing") from None
        if found != size:
            raise Incomplete(f"{name} has {found} of {size} bytes")
    return manifest


def write_manifest(checkpoint: Path, manifest: Manifest) -> None:
    """Make a checkpoint a complete one; the last thing that is done to it."""
    _sync(checkpoint.parent)
    _replace(checkpoint / MANIFEST, json.dumps(attrs.asdict(manifest), indent=1) + "\n")


def put_tracker_right(found: Newest) -> None:
    """Let the tracker name what was found, in one step.

    Stock code ends the process with status 0 on a tracker without a number.
    """
    tracker = found.checkpoints / TRACKER
    if found.iteration is None:
        tracker.unlink(missing_ok=True)
    elif _named(found.checkpoints) != found.iteration:
        _replace(tracker, str(found.iteration))


def clear(checkpoint: Path) -> None:
    """Remove what an earlier attempt left in a checkpoint's folder, the manifest first."""
    if not checkpoint.exists():
        return
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    _sync(checkpoint)
    for path in sorted(checkpoint.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def sizes(checkpoint: Path) -> dict[str, int]:
    """Bytes of each file in a checkpoint's folder, by its path there."""
    return {
        str(path.relative_to(checkpoint)): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file()
    }


def write_synced(path: Path, text: str) -> None:
    """Write a file, to the disk itself."""
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _iterations(checkpoints: Path) -> list[int]:
    numbers = [path.name.removeprefix("iter_") for path in checkpoints.glob("iter_*")]
    return [int(number) for number in numbers if number.isdigit()]


def _named(checkpoints: Path) -> int | None:
    """The iteration that the tracker names; ``None`` where it names none."""
    try:
        text = (checkpoints / TRACKER).read_text(errors="replace").strip()
    except FileNotFoundError:
        return None
    return int(text) if text.isdigit() else None


def _written(path: Path) -> int:
    """When, in nanoseconds."""
    return path.stat().st_mtime_ns


def _replace(path: Path, text: str) -> None:
    """A reader sees the old file or the new one, after a power cut too."""
    draft = path.with_name(path.name + ".new")
    write_synced(draft, text)
    draft.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
