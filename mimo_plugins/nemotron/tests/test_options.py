from __future__ import annotations

import attrs
import pytest
from mimo_plugin_nemotron.config_json import config_of, notes
from mimo_plugin_nemotron.options import Options


def test_the_defaults_are_a_model() -> None:
    options = Options()
    assert options.kv_head_count == options.attention_heads
    assert options.attention_head_dim * options.attention_heads == options.hidden_size
    assert options.mamba_head_count * options.mamba_head_dim == 2 * options.hidden_size
    assert options.mlp_width == options.expert_width == 4 * options.hidden_size


def test_frozen_and_keyword_only() -> None:
    with pytest.raises(TypeError):
        Options("M")  # type: ignore[misc]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Options().hidden_size = 1  # type: ignore[misc]


def test_a_wrong_layer_is_named_with_its_position() -> None:
    with pytest.raises(ValueError, match=r"'M\*X-': character 'X' at position 3.*E \(mixture"):
        Options(pattern="M*X-")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pattern": ""}, "pattern is empty"),
        ({"hidden_size": 0}, "hidden_size is 0: it must be at least 1"),
        ({"attention_heads": 3}, r"attention_heads \(3\) must divide hidden_size \(64\), or give"),
        ({"kv_heads": 3}, r"kv_heads \(3\) must divide attention_heads \(4\)"),
        ({"mamba_head_dim": 48}, r"mamba_head_dim \(48\) must divide twice hidden_size \(128\)"),
        ({"mamba_groups": 3}, r"mamba_groups \(3\) must divide the Mamba2 heads \(8\)"),
        ({"pattern": "E", "experts_per_token": 9}, r"experts_per_token \(9\) exceeds experts"),
        ({"pattern": "E", "router_bias": True, "router_score": "softmax"}, "router_bias needs"),
        ({"router_score": "tanh"}, "router_score"),
        ({"dropout": 1.0}, r"dropout is 1.0: it must be in \[0, 1\)"),
        ({"router_aux_loss": -0.1}, "router_aux_loss is -0.1"),
        ({"norm_epsilon": 0.0}, "norm_epsilon is 0.0"),
        ({"vocabulary_size": 0}, "vocabulary_size is 0"),
    ],
)
def test_bad_values(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**given)  # type: ignore[arg-type]


def test_options_of_layers_that_are_not_there_are_not_checked() -> None:
    Options(pattern="M", attention_heads=3)
    Options(pattern="*", mamba_groups=3)


@pytest.mark.parametrize(("size", "rows"), [(1, 128), (128, 128), (129, 256)])
def test_the_embedding_is_padded(size: int, rows: int) -> None:
    assert Options().embedding_rows(size) == rows


@pytest.mark.parametrize("size", [1, 300, 301])
def test_a_pretrained_embedding_is_not_padded(size: int) -> None:
    assert Options(vocabulary_size=300).embedding_rows(size) == 300


def test_what_transformers_computes_otherwise_has_no_exported_config() -> None:
    assert config_of(Options(pattern="M*-E"), 128, 16)["hybrid_override_pattern"] == "M*-E"
    assert config_of(Options(pattern="*-", norm_epsilon=1e-6), 128, 16) != {}
    assert config_of(Options(pattern="M*", norm_epsilon=1e-6), 128, 16) == {}
    assert config_of(Options(pattern="*E", router_score="softmax"), 128, 16) == {}


def test_an_exported_config_bounds_no_step_size() -> None:
    """Nothing in it is computed otherwise by transformers, so that no note is due."""
    config = config_of(Options(pattern="M*-E"), 128, 16)
    assert list(notes(config)) == []
    bounded = {key: value for key, value in config.items() if key != "time_step_min"}
    assert len(list(notes(bounded))) == 1
