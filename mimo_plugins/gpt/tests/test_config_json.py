"""``like`` takes the model from a ``config.json``; by theirs, weights of another are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gpt_modules import FAMILIES, ROWS, language_module
from mimo_plugin_gpt import config_json, plugin
from mimo_plugin_gpt.config_tables import KEYS
from mimo_plugin_gpt.options import Options

LLAMA_3 = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "rms_norm_eps": 1e-5,
    "vocab_size": 128256,
    "hidden_act": "silu",
    "attention_bias": False,
    "tie_word_embeddings": False,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
"""As Llama 3.1 8B is released."""


def directory(folder: Path, **changed: Any) -> str:
    config = {key: value for key, value in (LLAMA_3 | changed).items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def test_the_whole_model_is_taken(tmp_path: Path) -> None:
    shape = Options(like=directory(tmp_path)).shape
    assert (shape.hidden_size, shape.layers, shape.ffn_hidden_size) == (4096, 32, 14336)
    assert (shape.attention_heads, shape.kv_heads, shape.head_dim) == (32, 8, 128)
    assert (shape.rope_base, shape.rope_scaling, shape.norm_epsilon) == (500000, 8, 1e-5)
    assert (shape.vocabulary_size, shape.tie_embeddings) == (128256, False)


def test_llama_3_has_8_billion_parameters(tmp_path: Path) -> None:
    module = language_module(like=directory(tmp_path))
    assert plugin.describe_module(module).num_parameters == 8_030_261_248  # as published


def test_the_language_model_of_a_whole_vision_language_model_is_taken(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "llava", "hidden_size": 1, "text_config": LLAMA_3})
    )
    assert Options(like=str(tmp_path)).shape == Options(like=directory(tmp_path)).shape


def test_what_is_given_goes_before_what_is_taken(tmp_path: Path) -> None:
    like = directory(tmp_path)
    shape = Options(like=like, layers=2, rope_scaling=1.0, tie_embeddings=True).shape
    assert (shape.layers, shape.rope_scaling, shape.tie_embeddings) == (2, 1, True)
    assert shape.hidden_size == 4096


def test_what_does_not_go_together_names_both_sources(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"kv_heads \(5\) must divide attention_heads \(32\) \(from"
        r" .*config.json: hidden_size 4096, .*num_attention_heads 32",
    ):
        Options(like=directory(tmp_path), kv_heads=5)


def test_experts_can_be_added_or_left_out(tmp_path: Path) -> None:
    upcycled = Options(like=directory(tmp_path), experts=8, expert_ffn_hidden_size=14336).shape
    assert (upcycled.experts, upcycled.ffn_hidden_size) == (8, 14336)
    mixtral = {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}
    assert Options(like=directory(tmp_path, **mixtral), experts=0).shape.experts == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_type": "gemma2"}, "model_type 'gemma2'; read are llama, mistral"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"attention_bias": True}, "attention_bias True: a bias of the attention's output"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"quantization_config": {"bits": 4}}, "quantized weights"),
        ({"model_type": "mistral", "sliding_window": 4096}, "sliding_window 4096"),
        ({"model_type": "mistral"}, "lacks sliding_window, .*takes as 4096"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "sliding_window, .* takes as 4096"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type 'linear'"),
        ({"rope_scaling": LLAMA_3["rope_scaling"] | {"low_freq_factor": 2.0}}, "low_freq_factor 2"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": [0]}, "mlp_only_layers"),
        ({"model_type": "qwen3_moe", "decoder_sparse_step": 2}, "decoder_sparse_step"),
        ({"hidden_size": None}, "says hidden_size null; expected a value such as 4096"),
        ({"hidden_size": "32"}, r"says hidden_size '32' \(a string\); expected a whole number$"),
        ({"vocab_size": True, "rms_norm_eps": [1]}, r"eps \[1\] .*; says vocab_size True"),
        ({"model_type": {}}, "model_type {} .an object.; expected a string"),
        ({"rope_scaling": "llama3"}, "rope_scaling 'llama3' .*read are rope_type default and"),
        ({"rope_scaling": {"factor": 8.0}}, "without its rope_type; read are rope_type default"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": "8"}}, "rope_scaling.factor '8'"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "rope_scaling.rope_type 'yarn'"),
        ({"model_type": "mixtral", "num_local_experts": None}, "says num_local_experts null"),
    ],
)
def test_models_of_other_kinds_are_refused(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"like: .*config.json .*{message}"):
        Options(like=directory(tmp_path, **changed))


def test_no_heads_are_refused_where_they_are_said(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"attention_heads \(0\) must .*config.json: .*num_attention_heads 0"
    ):
        Options(like=directory(tmp_path, num_attention_heads=0, head_dim=...))


def test_a_window_that_is_off_is_none(tmp_path: Path) -> None:
    off = {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": 4096}
    assert Options(like=directory(tmp_path, **off)).shape.qkv_bias
    null = {"model_type": "mistral", "sliding_window": None}
    assert not Options(like=directory(tmp_path, **null)).shape.qkv_bias


@pytest.mark.parametrize(("text", "message"), [("{", "holds no JSON"), ("[]", "holds list")])
def test_a_broken_file(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        Options(like=str(tmp_path))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config.json cannot be read \(No such file .*; give a"):
        Options(like=str(tmp_path))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_exported_is_read_again(family: str, tmp_path: Path) -> None:
    exported = plugin.param_mappings(language_module(**FAMILIES[family])).exported_config
    assert exported["model_type"] == family
    (tmp_path / "config.json").write_text(json.dumps(dict(exported)))
    shape = Options(**FAMILIES[family]).shape
    assert Options(like=str(tmp_path)).shape == shape
    assert list(config_json.mistakes(exported, shape)) == []


WRITTEN = {
    *("num_attention_heads", "num_key_value_heads", "intermediate_size", "rms_norm_eps"),
    *("rope_theta", "tie_word_embeddings", "vocab_size"),
    *("num_experts", "num_local_experts", "num_experts_per_tok", "moe_intermediate_size"),
    "norm_topk_prob",
}
"""Keys that say what a model is and that the sparse file below leaves out."""


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("nested", [False, True])
def test_a_sparse_file_is_the_same_model_after_an_export(
    kind: str, nested: bool, tmp_path: Path
) -> None:
    """Transformers' own default of each key that lacks is written."""
    sparse = {"model_type": kind, "num_hidden_layers": 2, "hidden_size": 512, "head_dim": 64}
    sparse |= {"sliding_window": None} if kind == "mistral" else {}
    whole = {"model_type": "llava", "text_config": sparse} if nested else sparse
    (tmp_path / "config.json").write_text(json.dumps(whole))
    module = language_module(like=str(tmp_path))
    exported = plugin.param_mappings(module).exported_config
    # A reader may have other defaults, so a key that is not written can be another model.
    assert sorted(WRITTEN & KEYS[kind].defaults.keys() - exported.keys()) == []
    (tmp_path / "config.json").write_text(json.dumps(dict(exported)))
    assert language_module(like=str(tmp_path)).options.shape == module.options.shape
    assert list(config_json.mistakes(whole, Options(like=str(tmp_path)).shape)) == []


def test_what_transformers_has_no_model_of_has_no_config() -> None:
    both = FAMILIES["qwen2"] | {"qk_norm": True}
    assert plugin.param_mappings(language_module(**both)).exported_config == {}
    loose = FAMILIES["mixtral"] | {"router_normalized": False}
    assert config_json.config_of(Options(**loose).shape, ROWS, 16) == {}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rope_theta": 1e4}, "says rope_theta 10000.0, but the option rope_base is 500000.0"),
        ({"rope_scaling": None}, "lacks rope_scaling.factor, which its type takes as 1.0, but the"),
        ({"rms_norm_eps": 1e-6}, "says rms_norm_eps 1e-06, but the option norm_epsilon is 1e-05"),
        ({"tie_word_embeddings": True}, "says tie_word_embeddings True"),
        ({"num_attention_heads": 64, "head_dim": 64}, "says num_attention_heads 64"),
        ({"model_type": "gemma"}, "says model_type 'gemma'; read are"),
        ({"num_attention_heads": "32"}, "says num_attention_heads '32' (a string); expected"),
        ({"rope_scaling": "llama3"}, "says rope_scaling 'llama3' (a string); expected an object: "),
        ({"intermediate_size": 64}, None),  # told by the weights
        ({"rope_theta": ...}, "lacks rope_theta, which its type takes as 10000.0, but the option"),
        ({"rms_norm_eps": 9.999999747378752e-06}, None),  # 1e-5 in float32
    ],
)
def test_weights_that_compute_something_else_are_told(
    tmp_path: Path, changed: dict[str, Any], said: str | None
) -> None:
    """Of what neither names nor shapes tell."""
    shape = Options(like=directory(tmp_path)).shape
    config = {key: value for key, value in (LLAMA_3 | changed).items() if value is not ...}
    told = list(config_json.mistakes(config, shape))
    assert bool(told) == (said is not None)
    if said is not None:
        assert told[0].startswith(said)


def test_experts_that_are_weighed_otherwise_are_told() -> None:
    shape = Options(**FAMILIES["qwen3_moe"]).shape
    config = config_json.config_of(shape, ROWS, 16)
    told = list(config_json.mistakes(config | {"norm_topk_prob": True}, shape))
    assert told == ["says norm_topk_prob True, but the option router_normalized is False"]
