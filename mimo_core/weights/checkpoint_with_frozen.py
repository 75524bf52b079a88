"""A checkpoint with the weights that it leaves out, read where they are."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from mimo_core.checkpoint.manifest import IncompleteCheckpointError, Manifest, read_manifest
from mimo_core.checkpoint.reader import Checkpoint
from mimo_core.errors import MimoError, Problem
from mimo_core.plugins.weight_map import ParamMappings
from mimo_core.weights.compare import DirectoryMatch, match
from mimo_core.weights.frozen_sources import (
    FROZEN,
    WeightSource,
    check_origins,
    if_moved,
    origins_of,
)
from mimo_core.weights.integrity import check_files
from mimo_core.weights.load import Source


class CompletedCheckpoint:
    """The tensors of one checkpoint folder (``iter_…``), wherever they are."""

    def __init__(
        self,
        folder: Path,
        maps: Mapping[str, ParamMappings],
        moved: Mapping[str, str] | None = None,
    ) -> None:
        """Compares the checksums of all files; then reads names and shapes.

        Args:
            folder: The checkpoint.
            maps: How the modules that are wanted are named in directories.
            moved: By module, where the directory is now that it read weights in; elsewhere the
                place is the checkpoint's.

        Raises:
            MimoError: weights that it leaves out are gone, or others now; or a module is said to
                be moved that reads none.
            CheckpointError: a file is not what was saved.
        """
        saved = _manifest(folder)
        if saved:
            check_files(folder, saved)
        self._checkpoint = Checkpoint(folder)
        self._maps = maps
        self._left_out = saved.left_out if saved else {}
        self._origins = origins_of(saved) if saved else ()
        moved = moved or {}
        for name in sorted(moved.keys() - {origin.module for origin in self._origins}):
            raise MimoError(
                f"modules.{name}.pretrained_weights={moved[name]}: {folder} reads no weights of "
                f"{name} in a directory; leave it out",
                code="export.refused-override",
                key=f"modules.{name}.pretrained_weights",
            )
        self._found: dict[str, DirectoryMatch] = {}
        problems: list[Problem] = []
        for origin in self._origins:
            if (name := origin.module) in maps:
                try:
                    self._found[name] = _directory(origin, maps[name], moved.get(name))
                except MimoError as error:
                    problems += error.problems
        if problems:
            raise MimoError.of(problems)
        if saved:
            check_origins(saved, self._found)
        self._sources = {
            name: Source(name, maps[name], found) for name, found in self._found.items()
        }
        self._other = cache(lambda path: Checkpoint(Path(path)))

    @property
    def keys(self) -> frozenset[str]:
        return self._checkpoint.keys | self._left_out.keys()

    def shape(self, key: str, index: tuple[int, ...]) -> tuple[int, ...] | None:
        """As :meth:`Checkpoint.shape`."""
        facts = self._left_out.get(key)
        if facts is None:
            return self._checkpoint.shape(key, index)
        whole = facts["shape"]
        if any(i >= size for i, size in zip(index, whole, strict=False)):
            return None
        return tuple(whole[len(index) :])

    def dtype(self, key: str) -> torch.dtype:
        facts = self._left_out.get(key)
        if facts is None:
            return self._checkpoint.dtype(key)
        dtype: torch.dtype = getattr(torch, facts["dtype"])
        return dtype

    def read(self, key: str, index: tuple[int, ...]) -> Tensor:
        """One whole tensor, in the precision that the run had it in."""
        facts = self._left_out.get(key)
        if facts is None:
            return self._checkpoint.read(key, index)
        origin = self._origins[facts["origin"]]
        if origin.kind == "checkpoint":
            return self._other(origin.path).read(key, index).to(self.dtype(key))
        tensor = self._sources[origin.module].stored((key, index))
        assert tensor is not None, key
        return tensor.to(self.dtype(key))


def _manifest(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder)
    except IncompleteCheckpointError:
        return None


def _directory(origin: WeightSource, weights: ParamMappings, moved: str | None) -> DirectoryMatch:
    told = f"the frozen weights of {origin.module} were read in {origin.path}"
    try:
        found = match(weights, weights.locate(moved) if moved else Path(origin.path))
    except MimoError as error:
        message = f"{told}: {error.text}{if_moved(origin.module)}"
        raise MimoError(message, code=FROZEN, module=origin.module, place=origin.path) from error
    if found.mistakes:
        lines = "".join(f"\n  {said}" for said in found.mistakes)
        raise MimoError(
            f"{told}, and {found.directory} does not hold them:{lines}",
            code=FROZEN,
            module=origin.module,
            place=str(found.directory),
        )
    return found
