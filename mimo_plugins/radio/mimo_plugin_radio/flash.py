"""Attention over packed pictures by flash-attn-4, whose kernels for Hopper GPUs fit small heads."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import attrs
import torch
from megatron.core.packed_seq_params import PackedSeqParams

from mimo_core import MimoError, ModuleConfig
from mimo_plugin_radio.flash_mend import mend
from mimo_plugin_radio.heads import cut, fill, side_by_side

SIZES = (64, 96, 128)
"""Sizes of a head that every version computes right; others are filled up with zeros, but for
80 where ``flash_mend`` knows the version."""
_KEEPS = "FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED"
"""Its variable: what it compiles in a first run, seconds for each kernel, is kept for the next."""
_COMPILED = {
    "_flash_attn_fwd": "fwd",
    "_bwd_preprocess": "bwd_pre",
    "_flash_attn_bwd": "bwd",
    "_bwd_postprocess_convert": "bwd_post",
}
"""Its functions that compile kernels, and how it calls their caches."""


@attrs.frozen
class Kernels:
    """flash-attn-4's functions, or what stands for them, and the sizes of a head they compute."""

    packed: Callable[..., Any]
    batch: Callable[..., Any]
    sizes: tuple[int, ...] = SIZES


def kernels(module: ModuleConfig) -> Kernels:
    """flash-attn-4's, on this GPU.

    Raises:
        MimoError: it is not installed, this GPU is of another kind, or the module is to be
            deterministic.
    """
    place = f"modules.{module.name}.options.flash_attention"
    if module.megatron.get("deterministic_mode"):
        raise MimoError(
            f"{place}: does not go with megatron.deterministic_mode: its backward adds gradients "
            "in no fixed order; leave one of both out",
            code="recipe.conflict",
            module=module.name,
            keys=("options.flash_attention", "megatron.deterministic_mode"),
        )
    capability = torch.cuda.get_device_capability()
    if capability[0] != 9:
        raise MimoError(
            f"{place}: its kernels are known to be right on Hopper GPUs (compute capability 9.x); "
            f"this one is {'.'.join(map(str, capability))}. Leave it out",
            code="radio.no-flash-attention",
            module=module.name,
            compute_capability=capability,
        )
    os.environ.setdefault(_KEEPS, "1")
    try:
        found = importlib.import_module("flash_attn.cute")
        interface = importlib.import_module("flash_attn.cute.interface")
        mended = mend(interface)
        _keep_compiled(interface)
    except ImportError as error:
        raise MimoError(
            f"{place}: cannot import flash-attn-4 ({error}); "
            "pip install --pre 'flash-attn-4[cu13]', or leave it out",
            code="radio.no-flash-attention",
            module=module.name,
        ) from error
    sizes = tuple(sorted((*SIZES, 80))) if mended else SIZES
    return Kernels(found.flash_attn_varlen_func, found.flash_attn_func, sizes)


def _keep_compiled(interface: ModuleType) -> None:
    """Have it keep on disk what it compiles, also where TransformerEngine imported it first: it
    looks at its variable once, then."""
    caches = sys.modules.get("flash_attn.cute.cache_utils")
    if os.environ[_KEEPS] != "1" or getattr(caches, "CUTE_DSL_CACHE_ENABLED", True):
        return
    assert caches is not None
    caches.CUTE_DSL_CACHE_ENABLED = True
    for function, name in _COMPILED.items():
        if hasattr(found := getattr(interface, function, None), "compile_cache"):
            found.compile_cache = caches.get_jit_cache(name)


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    pictures: PackedSeqParams,
    kernels: Kernels,
) -> torch.Tensor:
    """Attention of each picture to itself; those of one size as a batch, which is faster.

    Args:
        query: ``[N, heads, size]``; ``key`` and ``value`` alike.
        pictures: Bounds of the pictures, on the GPU.

    Returns:
        ``[N, heads * size]``.
    """
    size = query.shape[-1]
    filled = next(each for each in kernels.sizes if each >= size)
    if filled > size:
        query, key, value = fill(query, key, value, filled)
    else:
        query, key, value = side_by_side(query, key, value)
    longest, scale = pictures.max_seqlen_q, size**-0.5
    if getattr(pictures, "even", False):
        batch = (each.unflatten(0, (-1, longest)) for each in (query, key, value))
        output = _first(kernels.batch(*batch, softmax_scale=scale)).flatten(0, 1)
    else:
        bounds = pictures.cu_seqlens_q
        output = _first(
            kernels.packed(
                query,
                key,
                value,
                cu_seqlens_q=bounds,
                cu_seqlens_k=bounds,
                max_seqlen_q=longest,
                max_seqlen_k=longest,
                softmax_scale=scale,
            )
        )
    return (cut(output, size) if filled > size else output).flatten(1)


def _first(output: Any) -> torch.Tensor:
    """Some versions give sums beside it."""
    attended: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return attended
