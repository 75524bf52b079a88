"""Pictures of one size go to attention as a batch, and say what packed ones say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mimo_plugin_radio.even import MOST, OFTEN, EvenPictures, EvenShapes, Pictures

HEADS, SIZE = 2, 4


class Stock(torch.nn.Module):
    """Stands for TransformerEngine's: packed sequences one by one, or a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.formats: list[str | None] = []

    def forward(
        self, query: Any, key: Any, value: Any, _mask: Any, _type: Any, _bias: Any, packed: Any
    ) -> torch.Tensor:
        assert packed is not None
        self.formats.append(packed.qkv_format)
        given = (query, key, value)
        if packed.qkv_format == "bshd":
            return attended(*given)
        bounds = packed.cu_seqlens_q.diff().tolist()
        parts = zip(*(each.split(bounds) for each in given), strict=True)
        return torch.cat([attended(*(each[None] for each in part))[0] for part in parts])


class Attention(EvenPictures, Stock): ...


def attended(*given: torch.Tensor) -> torch.Tensor:
    """``[B, S, heads, size]`` each to ``[B, S, heads * size]``."""
    heads_first = [each.transpose(1, 2) for each in given]
    return F.scaled_dot_product_attention(*heads_first).transpose(1, 2).flatten(2)


@pytest.mark.parametrize(
    ("lengths", "due"),
    [([5], "bshd"), ([5, 5, 5], "bshd"), ([5, 3], "thd"), ([3, 3, 6], "thd")],
)
def test_pictures_of_one_size_are_a_batch(lengths: list[int], due: str) -> None:
    """The slices of one projection, as layers hand them over, with gradients."""
    torch.manual_seed(1)
    projected = torch.randn(sum(lengths), HEADS, 3 * SIZE, requires_grad=True)
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    packed = Pictures(
        even=due == "bshd",
        qkv_format="thd",
        cu_seqlens_q=bounds,
        cu_seqlens_kv=bounds,
        max_seqlen_q=max(lengths),
    )
    ours, stock = Attention(), Stock()
    found = [
        one(*projected.split(SIZE, dim=-1), None, "no_mask", None, packed) for one in (ours, stock)
    ]
    assert (ours.formats, stock.formats) == ([due], ["thd"])
    weights = torch.randn_like(found[0])
    gradients = [torch.autograd.grad((one * weights).sum(), projected)[0] for one in found]
    # The same sums over the same numbers, in other kernels: a few roundings of 6e-8.
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


def test_what_is_not_packed_goes_on_as_it_is() -> None:
    seen: list[Any] = []

    class Told(torch.nn.Module):
        def forward(self, *given: Any) -> torch.Tensor:
            seen.append(given[-1])
            return given[0]

    class Square(EvenPictures, Told): ...

    query = torch.zeros(2, 3, HEADS, SIZE)
    assert Square()(query, query, query, None, "no_mask") is query
    assert seen == [None]


def test_a_shape_is_a_batch_when_it_comes_again_and_again() -> None:
    """Kernels are planned for each shape of a batch, and kept: natural pictures have hundreds."""
    shapes = EvenShapes()
    assert [shapes.take([6, 6]) for _ in range(OFTEN + 1)] == [False] * (OFTEN - 1) + [True] * 2
    # Of other numbers, or unlike ones, nothing is known.
    assert not any(shapes.take([6] * number) for number in (1, 3))
    assert not any(shapes.take([6, 5]) for _ in range(OFTEN))
    for length in range(100, 100 + MOST - 1):
        assert any(shapes.take([length]) for _ in range(OFTEN))
    assert not any(shapes.take([99]) for _ in range(OFTEN)), "no more than MOST"
    assert shapes.take([6, 6])


@pytest.mark.parametrize("often", [1, OFTEN])
def test_a_shape_has_settled_when_nothing_changes_any_more(often: int) -> None:
    shapes = EvenShapes(often=often, most=1)
    assert shapes.settled([6, 5]), "never a batch"
    for _ in range(often):
        assert not shapes.settled([6, 6])
        shapes.take([6, 6])
    assert shapes.settled([6, 6])
    assert shapes.settled([7]), "there is no more room: packed for ever"
    assert not shapes.take([7])
