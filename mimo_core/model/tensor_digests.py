"""Digests of tensors: which ranks hold the same bits, without moving the tensors."""

from __future__ import annotations

from functools import lru_cache

import torch

_WIDTH = 1 << 15
"""Numbers of a row, when a tensor is laid out as a matrix. Of narrower ones torch sums columns with
a buffer twice as large as the tensor, on GPUs."""
_ODD = (-7046029254386353131, -4417276706812531889, 1609587929392839161)
"""Multipliers of xxHash64, as signed numbers."""


@torch.no_grad()
def digests(tensors: list[torch.Tensor]) -> torch.Tensor:
    """Digests of tensors, int64 ``[len(tensors)]``, on their device.

    Equal bits give equal digests, on every device: only integers are added, in any order.
    Each tensor is read twice where it lies, and nothing of its size is allocated.
    """
    if not tensors:
        return torch.zeros(0, dtype=torch.int64)
    return torch.stack([_digest(tensor.detach()) for tensor in tensors])


def _digest(tensor: torch.Tensor) -> torch.Tensor:
    """Of all bits, and of where they are: sums over rows and over columns, each with a factor of
    its own, so that values that change places change the digest."""
    numbers = _as_integers(tensor)
    whole = numbers.numel() // _WIDTH * _WIDTH
    matrix = numbers[:whole].view(-1, _WIDTH)
    parts = (
        matrix.sum(1, dtype=torch.int64),
        matrix.sum(0, dtype=torch.int64),
        numbers[whole:].to(torch.int64),
    )
    sums = [
        (part * _factors(len(part), odd, str(part.device))).sum()
        for part, odd in zip(parts, _ODD, strict=True)
    ]
    return torch.stack(sums).sum() + numbers.numel()


def _as_integers(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's bytes as a row of the widest integers that divide them: those of 64 bits are
    added without a conversion."""
    flat = tensor.contiguous().view(-1)
    size = flat.element_size()
    for kind in (torch.int64, torch.int32, torch.int16):
        if flat.numel() * size % kind.itemsize == 0:
            aligned = flat.storage_offset() * size % kind.itemsize == 0
            return (flat if aligned else flat.clone()).view(kind)
    return flat.view(torch.uint8)


@lru_cache(maxsize=8)
def _factors(count: int, odd: int, device: str) -> torch.Tensor:
    """An odd number for each place, int64 ``[count]``."""
    places = torch.arange(count, dtype=torch.int64, device=device)
    mixed = (places + 1) * odd
    return (mixed ^ (mixed >> 29)) * _ODD[0] | 1
