from __future__ import annotations

import importlib.util
import sys

import pytest
from mimo_plugin_nemotron import kernels


class Cuda:
    name = "cuda"
    transformer_engine = True


def test_a_gpu_without_mamba_ssm_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ImportError, match=r"pip install 'mimo-core\[gpu\]'"):
        kernels.provide(Cuda())  # type: ignore[arg-type]


def test_on_a_gpu_nothing_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    before = dict(sys.modules)
    kernels.provide(Cuda())  # type: ignore[arg-type]
    assert sys.modules == before
