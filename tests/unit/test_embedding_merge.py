"""Rows in their places: as megatron-core's own search on the device puts them, without waiting."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.models.mimo.model.base import MimoModel
from torch.utils._python_dispatch import TorchDispatchMode

from mimo_core.model.embedding_merge import placeholder_indices, scatter_embeddings
from mimo_core.testing import raises_code

IDS = {"vision": 7, "audio": 9}
ROWS = {"vision": (2, 0, 1), "audio": (0, 0, 3)}
INPUT = torch.tensor([[1, 7, 7, 2, 3, 4], [5, 6, 1, 2, 3, 4], [9, 9, 7, 1, 9, 2]])
WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "masked_scatter", "is_nonzero")


class Waiting(TorchDispatchMode):
    """Takes down operations for which a host waits until a GPU has done all before."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = function.overloadpacket.__name__
        if name.rstrip("_") in WAITING or (name == "index" and any(map(_is_mask, args[1]))):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


def _is_mask(index: Any) -> bool:
    return index is not None and index.dtype is torch.bool


def leaves() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    text = torch.randn(6, 3, 4, generator=draw, requires_grad=True)
    rows = {
        name: torch.randn(sum(counts), 4, generator=draw, requires_grad=True)
        for name, counts in ROWS.items()
    }
    return text, rows


def test_rows_and_their_gradients_are_those_of_megatrons_own_search() -> None:
    text, rows = leaves()
    ours = scatter_embeddings(text, rows, placeholder_indices(INPUT, IDS, ROWS))
    weight = torch.arange(float(ours.numel())).view(ours.shape)
    (ours * weight).sum().backward()
    other, others = leaves()
    is_text = ~torch.isin(INPUT, torch.tensor(list(IDS.values())))
    given = {**others, "text": other.transpose(0, 1)[is_text]}
    cores = MimoModel.align_embeddings_by_token_positions(None, given, INPUT, IDS)
    assert torch.equal(ours, cores)
    (cores * weight).sum().backward()
    for mine, theirs in zip([text, *rows.values()], [other, *others.values()], strict=True):
        assert torch.equal(mine.grad, theirs.grad)


def test_the_device_is_not_waited_for() -> None:
    text, rows = leaves()
    places = placeholder_indices(INPUT, IDS, ROWS)
    with Waiting() as ours:
        scatter_embeddings(text, rows, places).sum().backward()
    assert ours.found == []
    with Waiting() as cores:
        MimoModel.align_embeddings_by_token_positions(
            None, {"vision": rows["vision"], "audio": rows["audio"]}, INPUT, IDS
        )
    assert "_local_scalar_dense" in cores.found, "core waits no longer: ours may go"


def test_sequences_of_other_placeholders_than_rows_are_refused() -> None:
    with raises_code("plugin.wrong-batch", encoder="vision", placeholders=3, rows=(2, 2, 1)):
        placeholder_indices(INPUT, IDS, {"vision": (2, 2, 1)})
