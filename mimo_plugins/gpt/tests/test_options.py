from __future__ import annotations

import attrs
import pytest
from gpt_modules import EXPERTS, FAMILIES
from mimo_plugin_gpt.options import Options
from mimo_plugin_gpt.shape import Shape


def test_the_defaults_are_a_model() -> None:
    shape = Options().shape
    assert shape.kv_heads == shape.attention_heads
    assert shape.query_width == shape.hidden_size
    assert shape.ffn_hidden_size == 4 * shape.hidden_size
    assert not shape.experts


def test_every_size_is_an_option() -> None:
    assert {field.name for field in attrs.fields(Shape)} <= {
        field.name for field in attrs.fields(Options)
    }


def test_frozen_and_keyword_only() -> None:
    with pytest.raises(TypeError):
        Options("models/llama")  # type: ignore[misc]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Options().hidden_size = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hidden_size": 0}, "hidden_size is 0: it must be at least 1"),
        ({"attention_heads": 3}, r"attention_heads \(3\) must divide hidden_size \(64\), or give"),
        ({"attention_heads": 0}, r"attention_heads \(0\) must divide"),
        ({"kv_heads": 3}, r"kv_heads \(3\) must divide attention_heads \(4\)"),
        ({"head_dim": 5}, "head_dim is 5: .* it must be even"),
        ({"rope_base": 0.0}, "rope_base is 0.0"),
        ({"rope_scaling": 0.5}, "rope_scaling is 0.5: it must be at least 1"),
        ({"norm_epsilon": 0.0}, "norm_epsilon is 0.0"),
        ({"vocabulary_size": 0}, "vocabulary_size is 0"),
        ({"vocabulary_multiple": 0}, "vocabulary_multiple is 0"),
        ({"dropout": 1.0}, r"dropout is 1.0: it must be in \[0, 1\)"),
        ({"experts": -1}, "experts is -1: it must be at least 0"),
        ({"experts": 2, "experts_per_token": 3}, r"experts_per_token \(3\) exceeds experts \(2\)"),
        ({"experts": 2, "experts_per_token": 1}, "the router would never learn"),
        ({"experts": 2, "router_aux_loss": -0.1}, "router_aux_loss is -0.1"),
        ({"experts": 2, "ffn_hidden_size": 8}, "give expert_ffn_hidden_size instead"),
        ({"experts_per_token": 2}, "experts_per_token: the layers are dense"),
        ({"router_aux_loss": 0.1}, "router_aux_loss: the layers are dense"),
    ],
)
def test_bad_values(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**given)  # type: ignore[arg-type]


def test_one_expert_a_token_has_the_weight_that_the_router_gives_it() -> None:
    options = EXPERTS | {"experts_per_token": 1, "router_normalized": False}
    assert not Options(**options).shape.router_normalized


@pytest.mark.parametrize(("size", "rows"), [(1, 128), (128, 128), (129, 256)])
def test_the_embedding_is_padded(size: int, rows: int) -> None:
    assert Options().embedding_rows(size) == rows


def test_a_pretrained_embedding_is_not_padded() -> None:
    assert Options(**FAMILIES["llama"]).embedding_rows(3) == 80
