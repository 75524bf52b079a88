"""On a GPU: adapters on TransformerEngine's layers, against the same model with merged weights.

``pytest -s`` shows what was compared.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from mimo_core.testing import run_ranks

pytestmark = pytest.mark.gpu
TOLERANCE = 2e-2
"""TransformerEngine multiplies fp32 in TF32: 2**-11 of each product; outputs move by 1 to 10."""


def test_adapters_add_what_the_merged_weights_do() -> None:
    (found,) = run_ranks(f"{Path(__file__).with_name('lora_ranks.py')}:one_rank")
    print(found)
    for told in found.values():
        assert told["unnamed"] == [] and told["without"] == []
        assert told["merged"]["gap"] < TOLERANCE and told["merged"]["moved"] > 0.1
    layers = set().union(*(told["layers"] for told in found.values()))
    assert layers >= {"TELayerNormColumnParallelLinear", "TERowParallelLinear"}
