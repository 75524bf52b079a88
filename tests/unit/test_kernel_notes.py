"""What the first lines of a run on GPUs say of kernels."""

from __future__ import annotations

import pytest

from mimo_core.platforms import kernels


def found(monkeypatch: pytest.MonkeyPatch, *modules: str) -> list[str]:
    monkeypatch.setattr(
        kernels.importlib.util, "find_spec", lambda name: name if name in modules else None
    )
    monkeypatch.setattr(kernels, "version", lambda distribution: "1.2")
    return list(kernels.notes())


def test_what_is_missing_is_told_with_what_to_do(monkeypatch):
    layers, mamba, used = found(monkeypatch, "mamba_ssm")
    assert layers == (
        "no TransformerEngine layers (transformer-engine): Megatron's local layers run instead, "
        "slower; pip install 'mimo-core[gpu]'"
    )
    assert mamba.startswith("no Mamba2 kernels (causal-conv1d): models with Mamba2 layers do not")
    assert used == "kernels: mamba-ssm 1.2"


def test_what_is_used_is_told_in_one_line(monkeypatch):
    (used,) = found(monkeypatch, "transformer_engine", "mamba_ssm", "causal_conv1d")
    assert used == "kernels: transformer-engine 1.2, mamba-ssm 1.2, causal-conv1d 1.2"
