"""Adaptation of torch 2.11 to 2.15 and megatron-core 0.19.2: checkpoints are read restricted.

torch's checkpoint reader unpickles ``.metadata`` by :func:`pickle.load`, and objects by
``torch.load(weights_only=False)``; either runs code that a file holds. Megatron's loading uses
both. It also takes a ``common.pt`` and files of its old format, if they are there; a checkpoint of
this program has neither.
"""

from __future__ import annotations

import io
import os
import pickle
from types import SimpleNamespace
from typing import Any

from mimo_core.checkpoint.restricted_unpickler import (
    FOREIGN,
    read_metadata,
    read_object,
    read_tensors,
)
from mimo_core.errors import MimoError

_REPLACED = "_mimo_reads_restricted"
_metadata_errors: list[MimoError] = []


def restrict_loading() -> None:
    """Have all reading of checkpoints in this process be restricted. Called before it begins."""
    from megatron.core.dist_checkpointing import serialization
    from megatron.training import checkpointing
    from torch.distributed.checkpoint import default_planner, filesystem

    reader: Any = filesystem.FileSystemReader
    if not hasattr(reader, _REPLACED):
        setattr(reader, _REPLACED, True)
        stock = reader.read_data
        filesystem.pickle = SimpleNamespace(**{**vars(pickle), "load": _load_metadata})
        reader.read_data = lambda self, plan, planner: read_tensors(stock, self, plan, planner)
        default_planner.DefaultLoadPlanner.load_bytes = _load_bytes
    serialization._legacy_common_state_exists = _refuse_common_state
    checkpointing._get_checkpoint_format = lambda _name, _args: "torch_dist"


def metadata_error() -> MimoError | None:
    """Why this process could not read the last ``.metadata``, or ``None``. torch 2.11 drops it."""
    return _metadata_errors[-1] if _metadata_errors else None


def _load_metadata(file: Any) -> Any:
    _metadata_errors.clear()
    try:
        return read_metadata(file)
    except MimoError as error:
        _metadata_errors.append(error)
        raise


def _load_bytes(planner: Any, read_item: Any, value: io.BytesIO) -> None:
    name = read_item.dest_index.fqn
    loaded = read_object(value, f"the object {name}")
    if planner.flatten_state_dict:
        from torch.distributed.checkpoint._nested_dict import set_element

        set_element(planner.original_state_dict, planner.mappings[name], loaded)
    else:
        planner.state_dict[name] = loaded


def _refuse_common_state(folder: str | os.PathLike[str]) -> bool:
    place = os.path.join(folder, "common.pt")
    if os.path.lexists(place):
        message = f"{place} is no file of a checkpoint of this program; remove it"
        raise MimoError(message, code=FOREIGN, file=place)
    return False
