from __future__ import annotations

import importlib.util
import sys

import pytest
from mimo_plugin_nemotron import kernels

from mimo_core.testing import raises_code


class Cuda:
    name = "cuda"
    transformer_engine = True


@pytest.mark.parametrize("missing", ["mamba_ssm", "causal_conv1d"])
def test_a_gpu_without_the_kernels_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else object()
    )
    with raises_code("nemotron.no-kernels", missing=(missing,)) as caught:
        kernels.provide(Cuda())  # type: ignore[arg-type]
    assert "pip install 'mimo-core[gpu]'" in caught.value.text


def test_on_a_gpu_nothing_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    before = dict(sys.modules)
    kernels.provide(Cuda())  # type: ignore[arg-type]
    assert sys.modules == before
