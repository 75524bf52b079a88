"""Gradients of queries with heads of 65 to 80 numbers in flash-attn-4 4.0.0b36 on Hopper GPUs.

Its backward adds them up in tiles of 80 columns. What clears the sums before it and reads them
after it takes the columns for 96 (``hdim_multiple_of``), so reads others' sums: gradients 1.3 times
their size apart from exact ones. Here the sums are cleared as a whole, and read as tiles of 80.
"""

from __future__ import annotations

import functools
from importlib import metadata
from types import ModuleType
from typing import Any

import torch

VERSION = "4.0.0b36"
_SIZES = range(65, 81)
_TAKEN_FOR, _TILE = 32, 16
"""Sizes of a head are rounded up to a multiple of: by the two kernels, by the backward itself. It
asks them for 64 where it computes the other way round, and is right then."""


def mend(interface: ModuleType) -> bool:
    """Replace the two functions that call these kernels, in ``flash_attn.cute.interface``.

    Returns:
        Whether they are right now; other versions are left alone.
    """
    if _version() != VERSION:
        return False
    if not hasattr(interface._bwd_preprocess, "__wrapped__"):
        interface._bwd_preprocess = _cleared(interface._bwd_preprocess)
        interface._bwd_postprocess_convert = _read_in_tiles(interface._bwd_postprocess_convert)
    return True


def _version() -> str | None:
    """``None`` of what was not installed as a package."""
    try:
        return metadata.version("flash-attn-4")
    except metadata.PackageNotFoundError:
        return None


def _cleared(preprocess: Any) -> Any:
    """``(out, dout, dpsum, lse, lse_log2, dq_accum, cu_seqlens_q, seqused_q, dlse, dtype, head_dim,
    ...)``: clears the sums, ``dq_accum``, unless they are ``None``."""

    @functools.wraps(preprocess)
    def cleared(*args: Any, **named: Any) -> Any:
        sums, size = args[5], args[10]
        if isinstance(sums, torch.Tensor) and _mistaken(size, named):
            if not named["fake_mode"]:
                sums.zero_()
            args = (*args[:5], None, *args[6:])
        return preprocess(*args, **named)

    return cleared


def _read_in_tiles(convert: Any) -> Any:
    """``(accum, output, scale, cu_seqlens, seqused, arch, dtype, hdim, ...)``."""

    @functools.wraps(convert)
    def read(*args: Any, **named: Any) -> Any:
        if _mistaken(args[7], named):
            named |= {"hdim_multiple_of": _TILE}
        return convert(*args, **named)

    return read


def _mistaken(size: int, named: dict[str, Any]) -> bool:
    """Whether the backward's tiles are narrower than the two kernels take them for."""
    return size in _SIZES and named["hdim_multiple_of"] == _TAKEN_FOR
