"""Attention by flash-attn-4, with torch's in the place of its kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mimo_plugin_radio import flash
from mimo_plugin_radio.heads import fill
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


KERNEL = """
import torch
from mimo_plugin_radio.head_kernels import copy_heads

torch.manual_seed(0)
for given, wanted in ((80, 96), (96, 80), (72, 128)):
    joined = torch.randn(37, 3, 2 * max(given, wanted)).bfloat16()
    source = joined[..., 5 : 5 + given]
    target = torch.full((37, 3, wanted + 7), torch.nan).bfloat16()[..., 7:]
    copy_heads(source, target)
    size = min(given, wanted)
    assert torch.equal(target[..., :size], source[..., :size])
    assert (target[..., size:] == 0).all()
"""


def test_the_kernel_copies_heads() -> None:
    """By Triton's interpreter: heads with gaps between them, filled up and cut."""
    pytest.importorskip("triton")
    run = subprocess.run(
        [sys.executable, "-c", KERNEL],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_the_kernel_moves_eight_numbers_at_once() -> None:
    """Compiled for a Hopper GPU, without one, with the sizes and gaps of ViT-H."""
    compiler = pytest.importorskip("triton.compiler")
    from mimo_plugin_radio import head_kernels
    from triton.backends.compiler import GPUTarget

    sizes = {"GIVEN": 80, "WANTED": 96, "WIDTH": 128, "ROWS": 32}
    numbers = ("total", "heads", "source_row", "source_head", "target_row", "target_head")
    types = {"source": "*bf16", "target": "*bf16", **dict.fromkeys(numbers, "i32")}
    names = [*types, *sizes]
    source = compiler.ASTSource(
        head_kernels._copy,
        {**types, **dict.fromkeys(sizes, "constexpr")},
        {(names.index(name),): size for name, size in sizes.items()},
        {(number,): [["tt.divisibility", 16]] for number, _ in enumerate(types)},
    )
    ptx = compiler.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    assert "ld.global.v4.b32" in ptx and "st.global.v4.b32" in ptx


def test_gradients_come_back_side_by_side() -> None:
    parts = [torch.randn(4, 2, 80, requires_grad=True) for _ in range(3)]
    filled = fill(*parts, 96)
    gradients = torch.autograd.grad(filled, parts, [torch.ones_like(each) for each in filled])
    assert [each.storage_offset() for each in gradients] == [0, 80, 160]
    assert {each.stride() for each in gradients} == {(480, 240, 1)}


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
