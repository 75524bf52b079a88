"""Attention by flash-attn-4, with torch's in the place of its kernel."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mimo_plugin_radio import flash
from mimo_plugin_radio.options import Options
from mimo_plugin_radio.tower import packed


def each_alone(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: Any, scale: float
) -> torch.Tensor:
    """``[N, heads, size]``: torch's attention of each picture."""
    groups = zip(
        *(x.transpose(0, 1).split(lengths, dim=1) for x in (query, key, value)), strict=True
    )
    attended = [F.scaled_dot_product_attention(*group, scale=scale) for group in groups]
    return torch.cat(attended, dim=1).transpose(0, 1)


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize(("size", "computed"), [(64, 64), (72, 96), (80, 96), (120, 128)])
def test_heads_are_filled_up_to_sizes_that_are_computed_right(
    size: int, computed: int, even: bool
) -> None:
    seen = []
    lengths = (4, 4) if even else (5, 3)
    pictures = packed(lengths, even)

    def of_packed(query: Any, key: Any, value: Any, **said: Any) -> Any:
        seen.append(query.shape[-1])
        assert said["cu_seqlens_q"] is pictures.cu_seqlens_q and said["max_seqlen_k"] == 5
        return each_alone(query, key, value, lengths, said["softmax_scale"])

    def of_batch(query: Any, key: Any, value: Any, softmax_scale: float) -> Any:
        seen.append(query.shape[-1])
        assert query.shape == (2, 4, 2, computed)
        rows = (each.flatten(0, 1) for each in (query, key, value))
        return each_alone(*rows, lengths, softmax_scale).unflatten(0, (2, 4)), None

    torch.manual_seed(0)
    rows = [torch.randn(8, 2, size, requires_grad=True) for _ in range(3)]
    output = flash.attend(*rows, pictures, flash.Kernels(of_packed, of_batch))
    expected = each_alone(*rows, lengths, size**-0.5).flatten(1)
    assert seen == [computed]
    torch.testing.assert_close(output, expected)
    upstream = torch.randn_like(output)
    torch.testing.assert_close(
        torch.autograd.grad(output, rows, upstream), torch.autograd.grad(expected, rows, upstream)
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"resolution": "fixed"}, "does not go with resolution=fixed"),
        ({"dropout": 0.1}, "does not go with dropout=0.1"),
        ({"heads": 8}, "does not go with heads of 160"),
    ],
)
def test_what_it_cannot_do_is_refused(options: dict[str, Any], said: str) -> None:
    given = {"size": "huge", "resolution": "dynamic", "flash_attention": True} | options
    with pytest.raises(ValueError, match=f"radio option flash_attention=true: {said}"):
        Options(**given)


def test_a_missing_package_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = SimpleNamespace(name="vision", megatron={"deterministic_mode": True})
    with pytest.raises(ValueError, match=r"modules.vision.*does not go with .*deterministic_mode"):
        flash.kernels(module)
    module.megatron = {}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    with pytest.raises(ValueError, match=r"modules.vision.*this one is 8.0. Leave it out"):
        flash.kernels(module)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setitem(sys.modules, "flash_attn.cute", None)
    with pytest.raises(ValueError, match=r"pip install --pre 'flash-attn-4\[cu13\]'"):
        flash.kernels(module)
