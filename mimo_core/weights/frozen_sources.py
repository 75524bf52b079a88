"""Where weights come from that do not learn, and need not be saved: they are read again there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from mimo_core.checkpoint.keys import module_prefix, part_prefix
from mimo_core.checkpoint.manifest import MANIFEST, Manifest
from mimo_core.errors import CheckpointError
from mimo_core.weights.compare import DirectoryMatch

FROZEN = "checkpoint.frozen-weights"
_SAMPLES = 256
"""Tensors of a directory of which some bytes are read for its digest."""
_BYTES = 1024


@attrs.frozen(kw_only=True)
class WeightSource:
    """A directory of safetensors, or a checkpoint."""

    kind: Literal["directory", "checkpoint"]
    path: str
    """Absolute."""
    digest: str
    module: str = ""
    """Whose weights are read in a directory."""


def directory_origin(module: str, found: DirectoryMatch) -> WeightSource:
    """The directory that a module begins with."""
    path = str(found.directory.absolute())
    return WeightSource(kind="directory", path=path, digest=directory_digest(found), module=module)


def directory_digest(found: DirectoryMatch) -> str:
    """A hash of names, types and shapes, and of some bytes of some tensors: another model of the
    same shapes has other numbers in nearly every tensor."""
    digest = hashlib.sha256()
    names = sorted(found.entries)
    for name in names:
        entry = found.entries[name]
        digest.update(repr((name, entry.dtype, entry.shape)).encode())
    for name in names[:: -(-len(names) // _SAMPLES)]:
        entry = found.entries[name]
        with entry.file.open("rb") as file:
            # In the middle: what is at the end may be padding.
            file.seek((entry.begin + entry.end) // 2)
            digest.update(file.read(min(_BYTES, entry.end - file.tell())))
    return digest.hexdigest()


def checkpoint_origin(folder: Path) -> WeightSource:
    """A complete checkpoint (``iter_…``)."""
    digest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    return WeightSource(kind="checkpoint", path=str(folder.absolute()), digest=digest)


def origins_of(saved: Manifest) -> tuple[WeightSource, ...]:
    """Where a checkpoint's weights are that it leaves out, in the manifest's order."""
    return tuple(WeightSource(**facts) for facts in saved.origins)


def keys_at(saved: Manifest, origin: WeightSource) -> frozenset[str]:
    """The keys that a checkpoint leaves out and that are read again there."""
    number = origins_of(saved).index(origin)
    return frozenset(key for key, facts in saved.left_out.items() if facts["origin"] == number)


def if_moved(module: str) -> str:
    """What to do where a directory is gone; to be put behind a message."""
    return f"; if it was moved, say where it is now: modules.{module}.pretrained_weights=PLACE"


def check_origins(saved: Manifest, found: Mapping[str, DirectoryMatch]) -> None:
    """Whether the weights that a checkpoint leaves out are still what they were.

    Args:
        saved: The checkpoint's.
        found: The directories that are read again, by module; others are not looked at.

    Raises:
        CheckpointError: a place is gone, or holds other weights.
    """
    for origin in origins_of(saved):
        told = f"the checkpoint of iteration {saved.iteration} does not hold the frozen weights"
        if origin.kind == "directory":
            held = found.get(origin.module)
            if held is not None and directory_digest(held) != origin.digest:
                raise CheckpointError(
                    f"{told} of {origin.module}, and {held.directory} holds others now; give "
                    f"the directory as it was: modules.{origin.module}.pretrained_weights=PLACE",
                    code=FROZEN,
                    module=origin.module,
                    place=str(held.directory),
                )
            continue
        try:
            same = checkpoint_origin(Path(origin.path)).digest == origin.digest
        except OSError:
            same = False
        if not same:
            raise CheckpointError(
                f"{told}: they are in {origin.path}, which is gone or another checkpoint now; put "
                "it back there",
                code=FROZEN,
                place=origin.path,
            )


class WeightSources:
    """Where a run reads weights again that it does not save."""

    def __init__(
        self,
        *,
        goes_on: Manifest | None = None,
        start: tuple[Path, Manifest] | None = None,
        directories: Mapping[str, DirectoryMatch] | None = None,
    ) -> None:
        """
        Args:
            goes_on: The manifest of the checkpoint that the run goes on from.
            start: Folder and manifest of the checkpoint whose weights a new run starts with.
            directories: Those that modules of a new run begin with.
        """
        self._saved = goes_on or (start[1] if start else None)
        self._start = start[0] if start else None
        self._directories = {
            part_prefix(name, part): (name, found)
            for name, found in ({} if self._saved else directories or {}).items()
            for part in found.prefixes
        }
        self._made: dict[str | Path, WeightSource] = {}
        self.loaded: frozenset[str] = frozenset()
        """Keys that directories gave values for on this rank; the builder tells."""

    def has(self, key: str) -> bool:
        """Whether the tensor of a key is read again; else it must be saved."""
        if self._saved is None:
            return key in self.loaded
        return self._start is not None or key in self._saved.left_out

    def modules_without(self, frozen: Iterable[str]) -> list[str]:
        """Those of some modules of which nothing is read again."""
        if self._start is not None:
            return []
        again = [*self._directories, *(self._saved.left_out if self._saved else ())]
        return [
            name for name in frozen if not any(key.startswith(module_prefix(name)) for key in again)
        ]

    def facts(self, left_out: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The manifest's ``left_out`` and ``origins``.

        Args:
            left_out: ``shape`` and ``dtype`` by key, of all ranks.
        """
        found: list[WeightSource] = []
        numbered = {}
        for key, facts in sorted(left_out.items()):
            origin = self._of(key)
            if origin not in found:
                found.append(origin)
            numbered[key] = {**facts, "origin": found.index(origin)}
        return {"left_out": numbered, "origins": tuple(attrs.asdict(origin) for origin in found)}

    def _of(self, key: str) -> WeightSource:
        if self._saved is not None and key in self._saved.left_out:
            return origins_of(self._saved)[int(self._saved.left_out[key]["origin"])]
        if self._start is not None:
            if self._start not in self._made:
                self._made[self._start] = checkpoint_origin(self._start)
            return self._made[self._start]
        name, found = next(at for begin, at in self._directories.items() if key.startswith(begin))
        if name not in self._made:
            self._made[name] = directory_origin(name, found)
        return self._made[name]
