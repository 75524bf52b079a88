"""A rank's random state in a file: what core 0.19 saves of one data-parallel rank in one object.

That object has the shape of the grid, so another layout could not load it. Plain JSON, read without
unpickling anything.
"""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from megatron.core import tensor_parallel

from mimo_core.checkpoint.manifest import UNREADABLE, damaged
from mimo_core.errors import CheckpointError
from mimo_core.platforms.base import RankPlatform
from mimo_core.utils.durable_files import write_synced
from mimo_core.utils.regular_files import UnreadableFile, read_json


def random_state(platform: RankPlatform) -> dict[str, Any]:
    """The state of every generator of this rank, as JSON values."""
    version, internal, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state(legacy=True)
    tracker = tensor_parallel.get_cuda_rng_tracker().get_states()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [kind, keys.tolist(), *rest],  # type: ignore[union-attr]
        "torch": _text(torch.get_rng_state()),
        "device": _text(platform.random_state()),
        "tracker": {
            name: _text(tensor_parallel.convert_cuda_rng_state(state, to_graphable=False))
            for name, state in tracker.items()
        },
    }


def restore_random_state(state: dict[str, Any], platform: RankPlatform) -> None:
    """Go on with what :func:`random_state` gave, to the last bit."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(_bytes(state["torch"]))
    platform.set_random_state(_bytes(state["device"]))
    tracker = tensor_parallel.get_cuda_rng_tracker()
    graph_safe = tensor_parallel.is_graph_safe_cuda_rng_tracker(tracker)
    tracker.set_states(
        {
            name: tensor_parallel.convert_cuda_rng_state(_bytes(text), to_graphable=graph_safe)
            for name, text in state["tracker"].items()
        }
    )


def write_random_state(checkpoint: Path, rank: int, state: dict[str, Any]) -> str:
    """Put a rank's state into a checkpoint; gives the name of its file."""
    name = f"random-{rank:05d}.json"
    write_synced(checkpoint / name, json.dumps(state))
    return name


def load_random_state(file: Path, platform: RankPlatform) -> None:
    """Restore the state in a file of a checkpoint.

    Raises:
        CheckpointError: the file holds no random state.
    """
    try:
        restore_random_state(read_json(file), platform)
    except UnreadableFile as error:
        message = f"{error.text}; it has to hold a random state"
        raise CheckpointError(message, code=UNREADABLE, file=str(file)) from error
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        message = f"{file} holds no random state of a rank ({cause})"
        raise damaged(message, file.parent, file.name) from error


def _text(state: torch.Tensor) -> str:
    return base64.b64encode(state.cpu().numpy().tobytes()).decode()


def _bytes(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
