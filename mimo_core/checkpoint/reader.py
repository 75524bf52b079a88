"""Reads tensors of a ``torch_dist`` checkpoint in one process, without building a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from mimo_core.checkpoint.manifest import DAMAGED
from mimo_core.checkpoint.restricted_unpickler import read_metadata, read_tensors
from mimo_core.errors import MimoError

_READ = FileSystemReader.read_data


class Checkpoint:
    """The tensors of one checkpoint folder (``iter_…``)."""

    def __init__(self, folder: Path) -> None:
        """Reads the names and shapes alone.

        Raises:
            MimoError: the metadata is damaged, or names what no checkpoint holds.
        """
        with (folder / ".metadata").open("rb") as file:
            metadata = read_metadata(file)
        self._folder = folder
        self._reader = FileSystemReader(folder)
        self._reader.set_up_storage_reader(metadata, is_coordinator=True)
        self._tensors = {
            key: held
            for key, held in metadata.state_dict_metadata.items()
            if isinstance(held, TensorStorageMetadata)
        }

    @property
    def keys(self) -> frozenset[str]:
        return frozenset(self._tensors)

    def shape(self, key: str, index: tuple[int, ...]) -> tuple[int, ...] | None:
        """Shape of a tensor, without the axes that ``index`` counts on; ``None`` if there is none.

        Raises nothing: an index beyond an axis is no tensor.
        """
        held = self._tensors.get(key)
        if held is None or any(i >= size for i, size in zip(index, held.size, strict=False)):
            return None
        return tuple(held.size[len(index) :])

    def dtype(self, key: str) -> torch.dtype:
        dtype: torch.dtype = self._tensors[key].properties.dtype
        return dtype

    def read(self, key: str, index: tuple[int, ...]) -> Tensor:
        """One whole tensor, put together from what all ranks saved of it.

        Raises:
            MimoError: they did not save all of it.
        """
        whole = self._tensors[key].size
        offsets = (*index, *[0] * (len(whole) - len(index)))
        sizes = (*[1] * len(index), *whole[len(index) :])
        return self.part(key, offsets, sizes).reshape(sizes[len(index) :])

    def part(self, key: str, offsets: Sequence[int], sizes: Sequence[int]) -> Tensor:
        """A part of a tensor, with all of its axes.

        Raises:
            MimoError: the ranks that saved did not save all of it.
        """
        held = self._tensors[key]
        wanted = ChunkStorageMetadata(offsets=torch.Size(offsets), sizes=torch.Size(sizes))
        tensor = torch.empty(*sizes, dtype=held.properties.dtype)
        items = create_read_items_for_chunk_list(key, held, [wanted])
        read = sum(item.lengths.numel() for item in items)
        if read != tensor.numel():
            raise MimoError(
                f"the checkpoint holds {read} of {tensor.numel()} numbers of {key}",
                code=DAMAGED,
                checkpoint=str(self._folder),
                key=key,
                numbers=read,
                expected=tensor.numel(),
            )
        read_tensors(_READ, self._reader, LoadPlan(items), _Into(tensor))
        return tensor


class _Into(LoadPlanner):
    """Puts what is read into one tensor."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def set_up_planner(self, *_: Any, **__: Any) -> None: ...

    def create_local_plan(self) -> LoadPlan:
        raise AssertionError("the plan is made by the reader")

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: Any) -> None:
        raise AssertionError(f"{read_item} is no tensor")

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        tensor = self._tensor
        for axis, (offset, length) in enumerate(
            zip(read_item.dest_offsets, read_item.lengths, strict=True)
        ):
            tensor = tensor.narrow(axis, offset, length)
        return tensor

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None: ...
