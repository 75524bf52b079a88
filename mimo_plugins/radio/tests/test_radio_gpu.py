"""On a GPU: TransformerEngine's kernels for pictures of one size and for packed ones."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from exact_attention import each_alone
from mimo_plugin_radio import flash
from mimo_plugin_radio.tower import packed

from mimo_core.testing import run_ranks

pytestmark = pytest.mark.gpu


def test_pictures_of_one_size_give_the_rows_of_packed_ones() -> None:
    functions = Path(__file__).with_name("ranks_gpu.py")
    facts = run_ranks(f"{functions}:even_pictures")[0]
    print(facts)
    assert facts["class"] == ["PicturesAttention", "EvenPictures", "TEDotProductAttention"]
    _alike(facts)


def test_flash_attention_gives_the_rows_of_transformer_engine() -> None:
    """Heads of 80, which were computed wrong but for their filling up."""
    pytest.importorskip("flash_attn.cute")
    functions = Path(__file__).with_name("ranks_gpu.py")
    facts = run_ranks(f"{functions}:flash_attention")[0]
    print(facts)
    assert facts["class"] == "FlashAttention"
    _alike(facts)


@pytest.mark.parametrize(
    ("flash", "resolution"), [(False, "dynamic"), (True, "dynamic"), (False, "fixed")]
)
def test_a_frozen_towers_graphs_give_its_rows(flash: bool, resolution: str) -> None:
    """To the last bit: the same kernels. Pictures of one size and unlike ones, before the former
    are a batch for attention and after."""
    if flash:
        pytest.importorskip("flash_attn.cute")
    functions = Path(__file__).with_name("ranks_graphs.py")
    facts = run_ranks(f"{functions}:alike", flash=flash, resolution=resolution)[0]
    print(facts)
    assert facts["graphs"] == 2
    assert facts["unlike"] == 24, "every batch has other pixels"
    assert all(facts["equal"])


@pytest.mark.parametrize("lengths", [(8192,), (1024,) * 8, (3000, 1000, 64, 4128)])
def test_heads_as_they_are_have_exact_gradients_at_full_size(lengths: tuple[int, ...]) -> None:
    """ViT-H's 16 heads of 80, several times, in memory that holds no numbers. Wrong ones of
    flash-attn-4 4.0.0b36 were right in small trials, and in some of large ones."""
    pytest.importorskip("flash_attn.cute")
    module: Any = SimpleNamespace(name="vision", megatron={})
    kernels = flash.kernels(module)
    if 80 not in kernels.sizes:
        pytest.skip("this flash-attn-4 gets heads of 80 filled up")
    torch.manual_seed(0)
    rows = torch.randn(sum(lengths), 16, 240, device="cuda", dtype=torch.bfloat16)
    rows.requires_grad_()
    upstream = torch.randn(sum(lengths), 1280, device="cuda", dtype=torch.bfloat16)
    exact = rows.detach().float().requires_grad_()
    expected = each_alone(*exact.split(80, dim=-1), lengths, 80**-0.5).flatten(1)
    expected.backward(upstream.float())
    assert exact.grad is not None
    for _ in range(5):
        _poison()
        rows.grad = None
        pictures = packed(lengths, len(set(lengths)) == 1)
        pictures.cu_seqlens_q = pictures.cu_seqlens_q.cuda()
        output = flash.attend(*rows.split(80, dim=-1), pictures, kernels)
        output.backward(upstream)
        assert rows.grad is not None
        # bf16 rounds each number to 8 bits, 2**-9 on average less; scores and sums besides.
        assert _worst(output.detach(), expected.detach()) < 1e-2
        assert max(map(_worst, rows.grad.split(80, -1), exact.grad.split(80, -1))) < 2e-2


def _poison() -> None:
    """What is allocated next is full of NaN."""
    torch.cuda.synchronize()
    blocks = [torch.full((size,), torch.nan, device="cuda") for size in [2**20, 2**24, 2**26] * 3]
    del blocks


def _worst(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Of 64 rows of a head, which are computed as one: the difference by the rows' size."""
    rows = len(exact)
    off, size = (
        each.float().view(rows, 16, 80).split(64, dim=0) for each in (found - exact, exact)
    )
    return max(
        float((one.norm(dim=(0, 2)) / whole.norm(dim=(0, 2))).max())
        for one, whole in zip(off, size, strict=True)
    )


def _alike(facts: dict[str, Any]) -> None:
    # Two kernels in bf16, each rounded to 8 bits (2**-9 a number, on average less), two layers.
    assert facts["rows"] < 1e-2
    assert facts["gradients"] < 2e-2
