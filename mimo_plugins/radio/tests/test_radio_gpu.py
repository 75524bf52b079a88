"""On a GPU: TransformerEngine's kernels for pictures of one size and for packed ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mimo_core.testing import run_ranks

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA GPU: TransformerEngine runs nowhere else"
)


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


def _alike(facts: dict[str, Any]) -> None:
    # Two kernels in bf16, each rounded to 8 bits (2**-9 a number, on average less), two layers.
    assert facts["rows"] < 1e-2
    assert facts["gradients"] < 2e-2
