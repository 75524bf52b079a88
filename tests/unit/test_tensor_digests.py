"""Digests: equal bits give equal ones; another bit, or another place of a value, gives others."""

from __future__ import annotations

import pytest
import torch

from mimo_core.model.tensor_digests import _WIDTH, digests

SIZES = (1, 3, 7, 1000, 2 * _WIDTH, 9 * _WIDTH + 5)
DTYPES = (torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool)


def digest(tensor: torch.Tensor) -> int:
    return int(digests([tensor])[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_one_bit_changes_a_digest(size: int, dtype: torch.dtype) -> None:
    tensor = (torch.arange(size) % 251).to(dtype)
    mine = digest(tensor)
    assert digest(tensor.clone()) == mine
    for place in {0, size // 2, size - 1}:
        other = tensor.clone()
        other.view(torch.uint8)[place * tensor.element_size()] ^= 1
        assert digest(other) != mine


@pytest.mark.parametrize(("one", "other"), [(0, 1), (0, 2 * _WIDTH), (5, 4 * _WIDTH + 9)])
def test_values_that_change_places_change_a_digest(one: int, other: int) -> None:
    tensor = torch.randn(12 * _WIDTH, generator=torch.Generator().manual_seed(1))
    swapped = tensor.clone()
    swapped[one], swapped[other] = tensor[other], tensor[one]
    assert digest(swapped) != digest(tensor)


def test_a_digest_does_not_depend_on_where_a_tensor_lies() -> None:
    whole = torch.randn(101, generator=torch.Generator().manual_seed(1)).bfloat16()
    for begin in range(4):
        assert digest(whole[begin:]) == digest(whole[begin:].clone())
    matrix = torch.randn(6, 4)
    assert digest(matrix.t()) == digest(matrix.t().contiguous())
    assert digest(torch.zeros(())) == digest(torch.zeros(()))
    assert len(digests([])) == 0
