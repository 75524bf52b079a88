"""Files that differ in one key, judged here and read by transformers; only ranks import this."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from mimo_plugin_whisper.config_json import KEYS
from mimo_plugin_whisper.plugin import param_mappings
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from whisper_models import build_model, make_groups, parts_of, random_batch
from whisper_tiny import tiny_module

from mimo_core import Grid
from mimo_core.testing.config_cases import cases, fill, other_defaults, outcomes, unknown_fields
from mimo_core.testing.weights import read_parts

VALUES: dict[str, list[Any]] = {
    "encoder_attention_heads": [4],
    "activation_function": ["gelu_new", "relu"],
}
OTHERS = {"model_type=other": {"model_type": "qwen2_audio_encoder"}}


def one_rank(platform: Any) -> dict[str, Any]:
    """What became of each file, and what the table lacks."""
    groups = make_groups({"audio": Grid()}, platform)["audio"]
    module = tiny_module()
    weights, model = param_mappings(module), build_model(module, groups, platform).eval()
    positions = module.options.max_positions
    batch = random_batch([positions], module.options.mel_bins)

    def theirs(config: dict[str, Any]) -> Any:
        model = WhisperEncoder(WhisperConfig.from_dict(dict(config))).eval()
        fill(model)
        with torch.no_grad():
            return model(batch["mels"][:, :, : 2 * positions], return_dict=True).last_hidden_state[
                0
            ]

    exported = dict(weights.exported_config)
    base = json.loads(WhisperConfig(**exported).to_json_string(False))
    with tempfile.TemporaryDirectory() as folder:
        reference = WhisperEncoder(WhisperConfig.from_dict(dict(base)))
        fill(reference)
        reference.save_pretrained(folder)
        (Path(folder) / "config.json").write_text(json.dumps(base))
        tower: Any = {"encoder": parts_of(model)["encoder"]}
        read_parts(module, weights, tower, groups, Path(folder))
    with torch.no_grad():
        ours = model["tower"](**batch)
    assert weights.config_mistakes is not None
    files = [("nothing", "", base), ("exported", "", exported), *cases(base, VALUES, OTHERS)]
    return {
        "cases": outcomes(files, weights.config_mistakes, theirs, ours),
        "unknown": unknown_fields(base, KEYS),
        "defaults": other_defaults(WhisperConfig, KEYS),
    }
