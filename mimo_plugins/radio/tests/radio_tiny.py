"""A tiny RADIO module, for the test process and for its ranks; no torch."""

from __future__ import annotations

from typing import Any

from mimo_plugin_radio.options import Options

from mimo_core import Grid, ModuleConfig, TrainingConfig

LANGUAGE_WIDTH = 24
TINY: dict[str, Any] = {
    "hidden_size": 16,
    "layers": 2,
    "heads": 2,
    "image_size": 16,
    "patch_size": 4,
    "max_image_size": 32,
    "class_tokens": 3,
}
DYNAMIC: dict[str, Any] = {
    **{name: value for name, value in TINY.items() if name != "image_size"},
    "resolution": "dynamic",
    "max_positions": 64,
    "min_positions": 2,
}


def tiny_module(
    *,
    name: str = "vision",
    tp: int = 1,
    pp: int = 1,
    precision: Any = "fp32",
    megatron: dict[str, Any] | None = None,
    **options: Any,
) -> ModuleConfig:
    """A module as hooks see it; ``options`` override the tiny ones."""
    tiny = DYNAMIC if options.get("resolution") == "dynamic" else TINY
    return ModuleConfig(
        name=name,
        plugin="radio",
        grid=Grid(tp=tp, pp=pp),
        train=TrainingConfig(
            iterations=1,
            micro_batch_size=2,
            global_batch_size=2,
            sequence_length=64,
            learning_rate=1e-3,
        ),
        options=Options(**(tiny | options)),
        precision=precision,
        megatron=megatron or {},
        language_width=LANGUAGE_WIDTH,
    )
