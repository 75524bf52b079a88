"""Directories of whole vision-language models: the projected rows that transformers computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hf_tiny import CONFIGS, SQUARE, tiny_module
from mimo_plugin_hf_vision.plugin import param_mappings

from mimo_core.errors import MimoError
from mimo_core.testing import config_cases, run_ranks

TOLERANCE = 2e-6
"""Relative to the largest row, in float32: the tower is transformers' own; the projector's two
matrix products are Megatron's."""
LOGITS = 1e-5
"""Relative to the largest logit, in float32: sums of the language model are taken in another order,
as in ``mimo_plugins/gpt/tests/test_config_of_transformers.py``."""
CLIP = {"model_type": "clip_vision_model", **CONFIGS["clip"]["vision_config"]}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    function = f"{Path(__file__).with_name('llava_ranks.py')}:one_rank"
    folder = str(tmp_path_factory.mktemp("llava"))
    found: dict[str, Any] = run_ranks(function, folder=folder, timeout=600.0)[0]
    return found


def test_each_key_of_a_llava_left_out_or_changed_gives_the_same_rows_or_is_refused_by_name(
    cases: dict[str, Any],
) -> None:
    assert config_cases.wrong(cases["cases"], TOLERANCE) == {}
    assert sum("difference" in case for case in cases["cases"].values()) > 8
    assert sum("refused" in case for case in cases["cases"].values()) > 4


def test_a_whole_llava_has_the_logits_of_transformers(cases: dict[str, Any]) -> None:
    """Tower, projector and language model of one directory, a picture between words."""
    assert len(cases["logits"]) > 4
    wrong = {name: one for name, one in cases["logits"].items() if one["difference"] > LOGITS}
    assert wrong == {}
    assert min(one["spread"] for one in cases["logits"].values()) > 1e-3


def test_whole_models_have_the_defaults_of_transformers(cases: dict[str, Any]) -> None:
    assert cases["defaults"] == {}
    assert cases["towers"] == {}


def _mistakes(folder: Path, tower: dict[str, Any], held: dict[str, Any]) -> list[str]:
    """What of a directory of weights is not as that of the option ``model``."""
    (folder / "config.json").write_text(json.dumps(tower))
    (folder / "preprocessor_config.json").write_text(json.dumps(SQUARE))
    weights = param_mappings(tiny_module(folder, projector="mlp"))
    assert weights.config_mistakes is not None
    return list(weights.config_mistakes(held))


@pytest.mark.parametrize("name", ["clip", "siglip", "dinov2", "vit"])
def test_weights_of_a_tower_that_differs_in_any_key_are_refused_by_name(
    tmp_path: Path, name: str
) -> None:
    from transformers import CONFIG_MAPPING

    said = CONFIGS[name].get("vision_config", CONFIGS[name])
    whole = json.loads(CONFIG_MAPPING[said["model_type"]](**said).to_json_string(False))
    if name == "vit":
        import numpy as np
        from safetensors.numpy import save_file

        save_file({"embeddings.x": np.ones(1, np.float32)}, tmp_path / "model.safetensors")
    assert _mistakes(tmp_path, whole, whole) == []
    harmless = {
        *("attention_dropout", "attention_probs_dropout_prob", "hidden_dropout_prob"),
        *("drop_path_rate", "layerscale_value", "projection_dim", "encoder_stride"),
        *("pooler_act", "pooler_output_size", "apply_layernorm", "reshape_hidden_states"),
        *("stage_names", "out_features", "out_indices", "vision_use_head", "use_mask_token"),
    }
    from mimo_core.plugins.config_keys import BOOKKEEPING

    for key, value in whole.items():
        if key in harmless | BOOKKEEPING:
            continue
        other = not value if isinstance(value, bool) else f"{value}x"
        if isinstance(value, int | float) and not isinstance(value, bool):
            other = 2 * value
        (said_, *_) = _mistakes(tmp_path, whole, whole | {key: other})
        assert key in said_


def test_weights_of_a_model_that_reads_other_rows_are_refused(tmp_path: Path) -> None:
    llava = {"model_type": "llava", "vision_config": CLIP}
    (said,) = _mistakes(tmp_path, CLIP, llava)
    assert said.startswith("has vision_feature_layer -2, but here it is the tower's output: set")
    (tmp_path / "llava").mkdir()
    last = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
    strategy = _mistakes(tmp_path / "llava", llava, llava | last)
    assert "vision_feature_layer -1, but here it is -2" in strategy[0]
    assert "vision_feature_select_strategy 'full': set the option tokens=all" in strategy[1]


def test_rows_that_cannot_be_had_are_refused_by_name(tmp_path: Path) -> None:
    siglip = CONFIGS["siglip"]["vision_config"]
    for held, said in (
        (
            {"vision_config": CLIP, "vision_feature_layer": [-2, -5]},
            "vision_feature_layer [-2, -5]",
        ),
        ({"vision_config": siglip}, "vision_feature_select_strategy 'default'"),
        ({"vision_config": CLIP | {"num_channels": 4}}, "vision_config.num_channels 4"),
    ):
        (tmp_path / str(len(said))).mkdir(exist_ok=True)
        with pytest.raises(MimoError, match=said.replace("[", r"\[")):
            _mistakes(tmp_path / str(len(said)), {"model_type": "llava", **held}, {})
