"""Which kernel computes losses."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mimo_core.model import loss


@pytest.mark.parametrize(
    ("installed", "used", "said", "fused"),
    [
        ("2.20.2", True, {}, True),
        ("2.19.1", True, {}, False),
        (None, True, {}, False),
        ("2.20.2", False, {}, False),
        ("2.20.2", True, {"cross_entropy_loss_fusion": False}, False),
    ],
)
def test_transformer_engine_computes_losses_where_its_gradients_are_sound(
    installed: str | None,
    used: bool,
    said: dict[str, Any],
    fused: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its kernels before 2.20 rounded gradients on their way; a recipe has the last word."""

    def version(_name: str) -> str:
        if installed is None:
            raise PackageNotFoundError
        return installed

    monkeypatch.setattr(loss, "version", version)
    config = SimpleNamespace(cross_entropy_loss_fusion=False, cross_entropy_fusion_impl="native")
    platform = SimpleNamespace(transformer_engine=used)
    loss.fuse_loss(
        cast(Any, config), cast(Any, SimpleNamespace(megatron=said)), cast(Any, platform)
    )
    assert config.cross_entropy_loss_fusion is fused
    assert config.cross_entropy_fusion_impl == ("te" if fused else "native")
