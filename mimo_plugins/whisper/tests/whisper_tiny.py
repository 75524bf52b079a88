"""A tiny Whisper module, for the test process and for its ranks; no torch."""

from __future__ import annotations

from typing import Any

from mimo_plugin_whisper.options import Options

from mimo_core import Grid, ModuleConfig, TrainingConfig

LANGUAGE_WIDTH = 24
TINY: dict[str, Any] = {
    "hidden_size": 16,
    "layers": 2,
    "heads": 2,
    "mel_bins": 8,
    "max_positions": 12,
}


def tiny_module(
    *, name: str = "audio", tp: int = 1, pp: int = 1, precision: Any = "fp32", **options: Any
) -> ModuleConfig:
    """A module as hooks see it; ``options`` override the tiny ones."""
    return ModuleConfig(
        name=name,
        plugin="whisper",
        grid=Grid(tp=tp, pp=pp),
        train=TrainingConfig(
            iterations=1,
            micro_batch_size=2,
            global_batch_size=2,
            sequence_length=64,
            learning_rate=1e-3,
        ),
        options=Options(**(TINY | options)),
        precision=precision,
        language_width=LANGUAGE_WIDTH,
    )
