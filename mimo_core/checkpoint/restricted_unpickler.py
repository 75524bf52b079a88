"""Reads the pickles of a checkpoint without running what they name.

A pickle may name any function and call it. Here it may name what a checkpoint holds, by exact
pairs of module and name; any other name ends the reading before it is looked up or imported.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import IO, Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner

from mimo_core.checkpoint.manifest import DAMAGED
from mimo_core.errors import MimoError

FOREIGN = "checkpoint.foreign-content"
_NOT_RUN = ", which no checkpoint holds; nothing of it was run"
_DTYPES = frozenset(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))
_CLASSES = frozenset(
    {
        ("torch", "Size"),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        ("torch.serialization", "_get_layout"),
        *(("torch", name) for name in _DTYPES),
        *(
            ("torch.distributed.checkpoint.metadata", name)
            for name in (
                "BytesStorageMetadata",
                "ChunkStorageMetadata",
                "Metadata",
                "MetadataIndex",
                "StorageMeta",
                "TensorProperties",
                "TensorStorageMetadata",
                "_MEM_FORMAT_ENCODING",
            )
        ),
        # torch 2.15 keeps the plans of the ranks that saved.
        *(
            ("torch.distributed.checkpoint.planner", name)
            for name in ("SavePlan", "TensorWriteData", "WriteItem", "WriteItemType")
        ),
    }
)


def read_metadata(file: IO[bytes]) -> Metadata:
    """The metadata of a ``torch_dist`` checkpoint.

    Args:
        file: Its ``.metadata``, opened by its path.

    Raises:
        MimoError: the file names what no checkpoint holds, or is damaged; names the file.
    """
    name = str(getattr(file, "name", ".metadata"))
    metadata = None
    with _named(name):
        metadata = _Unpickler(file).load()
    if not isinstance(metadata, Metadata) or not isinstance(metadata.storage_data, dict):
        message = f"{name} holds no metadata of a checkpoint"
        raise MimoError(message, code=DAMAGED, file=name)
    for info in metadata.storage_data.values():
        relative = str(info.relative_path)
        if PurePath(relative).name != relative:
            message = f"{name} names {relative!r}, which is no file of the checkpoint"
            raise MimoError(message, code=FOREIGN, file=name, name=relative)
    return metadata


def read_object(stream: io.BytesIO, place: str) -> Any:
    """What is no tensor: torch's restricted reader with the classes that Megatron registers.

    Args:
        stream: What ``torch.save`` wrote.
        place: Where it is, for errors.

    Raises:
        MimoError: it names what no checkpoint holds, or is damaged.
    """
    with _named(place):
        return torch.load(stream, map_location="cpu", weights_only=True)
    raise AssertionError


def read_tensors(
    read: Any, reader: FileSystemReader, plan: LoadPlan, planner: LoadPlanner
) -> torch.futures.Future[None]:
    """Read the items of a plan, file by file, so that an error names its file.

    Args:
        read: ``FileSystemReader.read_data``.
        reader: The reader of the checkpoint.
        plan: What to read.
        planner: Where to.

    Raises:
        MimoError: a file is damaged, or names what no checkpoint holds.
    """
    files: dict[str, list[Any]] = {}
    for item in plan.items:
        files.setdefault(reader.storage_data[item.storage_index].relative_path, []).append(item)
    for name, items in files.items():
        with _named(os.path.join(reader.path, name)):
            read(reader, LoadPlan(items), planner).wait()
    done: torch.futures.Future[None] = torch.futures.Future()
    done.set_result(None)
    return done


@contextmanager
def _named(place: str | Path) -> Iterator[None]:
    try:
        yield
    except MimoError as error:
        if error.text.startswith(str(place)):
            raise
        message = f"{place}: {error.text}"
        raise MimoError(message, code=error.code, **{**error.values, "file": str(place)}) from None
    except pickle.UnpicklingError as error:
        name = _refused_name(error)
        if name is None:
            message = f"{place} holds other bytes than were saved"
            raise MimoError(message, code=DAMAGED, file=str(place)) from error
        message = f"{place} names {name}{_NOT_RUN}"
        raise MimoError(message, code=FOREIGN, file=str(place), name=name) from error
    except OSError:
        raise
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        message = f"{place} cannot be read ({cause}); is it damaged?"
        raise MimoError(message, code=DAMAGED, file=str(place)) from error


def _refused_name(error: pickle.UnpicklingError) -> str | None:
    """What torch's restricted reader refused to load; ``None`` where the bytes are no pickle."""
    text = str(error)
    for begin in ("Unsupported global: GLOBAL ", "Trying to load unsupported GLOBAL "):
        if begin in text:
            return text.partition(begin)[2].split()[0]
    return None


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _CLASSES:
            return super().find_class(module, name)
        whole = f"{module}.{name}"
        raise MimoError(f"names {whole}{_NOT_RUN}", code=FOREIGN, name=whole)
