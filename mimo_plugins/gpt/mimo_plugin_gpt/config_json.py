"""``config.json`` of transformers' decoders, as a shape, and back."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from mimo_plugin_gpt.config_rope import LLAMA3, refused_rope, rope_values, said_of
from mimo_plugin_gpt.config_tables import CLASSES, KEYS, TEXT_OF
from mimo_plugin_gpt.config_types import mistyped
from mimo_plugin_gpt.shape import Shape

NAME = "config.json"
BELOW = ("text_config", "llm_config")
"""Where a whole vision-language model has that of its language model."""

_MOST_BYTES = 64 << 20
"""Bytes of a config.json."""
_KEYS = {
    "hidden_size": "hidden_size",
    "layers": "num_hidden_layers",
    "attention_heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "ffn_hidden_size": "intermediate_size",
    "norm_epsilon": "rms_norm_eps",
    "tie_embeddings": "tie_word_embeddings",
    "vocabulary_size": "vocab_size",
}
_EXPERT_KEYS = {
    "mixtral": {
        "experts": "num_local_experts",
        "experts_per_token": "num_experts_per_tok",
        "expert_ffn_hidden_size": "intermediate_size",
    },
    "qwen3_moe": {
        "experts": "num_experts",
        "experts_per_token": "num_experts_per_tok",
        "expert_ffn_hidden_size": "moe_intermediate_size",
        "router_normalized": "norm_topk_prob",
    },
}
_NUM_EXPERTS = ("num_experts", "num_local_experts")
"""Names that transformers has for the number of experts."""
_TOLD_BY_SHAPES = frozenset({"hidden_size", "layers", "ffn_hidden_size", "vocabulary_size"}) | {
    "experts",
    "expert_ffn_hidden_size",
    "qkv_bias",
    "qk_norm",
}
"""Fields of which names and shapes of the weights say all."""


@attrs.frozen(kw_only=True)
class _Part:
    """What a file says of a language model."""

    said: Mapping[str, Any]
    """As it stands there."""
    at: str
    """Where, before a key: ``text_config.``, or nothing."""
    kind: Any
    """Its ``model_type``, of whatever type that is."""

    @property
    def filled(self) -> dict[str, Any]:
        """With the defaults of its type."""
        return KEYS[self.kind].filled(self.said)


def read_shape(directory: Path, given: Collection[str] = ()) -> dict[str, Any]:
    """Fields of a shape, from a directory's file.

    Args:
        directory: With a ``config.json``.
        given: Fields that the recipe sets: what the file says of these is not read.

    Raises:
        ValueError: there is none, it is of a model of another kind, or has a value of another type.
    """
    path = directory / NAME
    part = _part(_read(path))
    refused = list(mistyped(part.said, part.at)) or [
        said for field, said in _refused(part) if field not in given
    ]
    if refused:
        raise ValueError(f"like: {path} " + "; ".join(refused))
    return {name: value for name, value in _values(part).items() if name not in given}


def taken(directory: Path, given: Collection[str]) -> str:
    """What :func:`read_shape` gives, with the keys of the file, for a message."""
    part, values = _part(_read(directory / NAME)), read_shape(directory, given)
    said = ", ".join(f"{_key(part, name)} {value}" for name, value in values.items())
    return f"{directory / NAME}: {said}"


def notes(directory: Path) -> Iterator[str]:
    """What nothing reads of a file that :func:`read_shape` reads."""
    path = directory / NAME
    yield from (f"like: {path} {said}" for said in config_notes(_read(path)))


def config_notes(whole: Mapping[str, Any]) -> Iterator[str]:
    """What nothing reads of a whole file, each to be read after its name."""
    part = _part(whole)
    if isinstance(part.kind, str) and part.kind in KEYS:
        yield from KEYS[part.kind].notes(part.said, part.at)


def mistakes(whole: Mapping[str, Any], shape: Shape) -> Iterator[str]:
    """Where weights with this file compute something else than a model of this shape, each to be
    read after the words "config.json"."""
    part = _part(whole)
    refused = list(mistyped(part.said, part.at)) or [said for _, said in _refused(part)]
    yield from refused
    if refused:
        return
    values = _values(part)
    if values.get("head_dim") is None and values["attention_heads"]:
        values["head_dim"] = values["hidden_size"] // values["attention_heads"]
    if values.get("kv_heads") is None:
        values["kv_heads"] = values["attention_heads"]
    for name, value in values.items():
        due = getattr(shape, name)
        if name in _TOLD_BY_SHAPES or (name in _expert_keys(part) and not shape.experts):
            continue
        # Some files hold the float32 that is nearest to what was meant.
        near = isinstance(due, float) and math.isclose(value, due, rel_tol=1e-6)
        if value != due and not near:
            key = _key(part, name)
            place = f"{'' if name == 'tie_embeddings' else part.at}{key}"
            if said_of(part.said, key):
                says = f"says {place} {value!r}"
            else:
                says = f"lacks {place}, which its type takes as {value!r}"
            yield f"{says}, but the option {name} is {due!r}"


def family(shape: Shape) -> str:
    """The model type whose files name such weights."""
    if shape.experts:
        return "qwen3_moe" if shape.qk_norm else "mixtral"
    if shape.qk_norm:
        return "qwen3"
    return "qwen2" if shape.qkv_bias else "llama"


def config_of(shape: Shape, rows: int, positions: int) -> dict[str, Any]:
    """The config with which transformers computes the same; empty where it has no such model.

    Args:
        shape: Of the model.
        rows: Of its embedding.
        positions: Longest sequence that it was trained on.
    """
    kind = family(shape)
    known = _known_of_kind(kind, shape)
    if any(getattr(shape, name) != value for name, value in known.items()):
        return {}
    keys = _KEYS | _EXPERT_KEYS.get(kind, {})
    config = {key: getattr(shape, name) for name, key in keys.items()}
    config |= {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        "hidden_act": "silu",
        "vocab_size": rows,
        "max_position_embeddings": positions,
        "rope_theta": shape.rope_base,
    }
    if shape.rope_scaling != 1:
        config["rope_scaling"] = {"rope_type": "llama3", "factor": shape.rope_scaling, **LLAMA3}
    return config


def _known_of_kind(kind: str, shape: Shape) -> dict[str, Any]:
    """Fields that a model type leaves no choice of."""
    known: dict[str, Any] = {
        "qkv_bias": kind == "qwen2",
        "qk_norm": kind in ("qwen3", "qwen3_moe"),
    }
    if kind == "mixtral":
        known["router_normalized"] = True
    if kind not in _EXPERT_KEYS:
        known["experts"] = 0
    return known


def _read(path: Path) -> dict[str, Any]:
    """A whole file."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_BYTES:
            raise ValueError(f"like: {path} is no regular file of at most {_MOST_BYTES:,} bytes")
        whole = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"like: {path} cannot be read ({error.strerror}; from {Path.cwd()}); give a directory "
            f"with the {NAME} of a model"
        ) from error
    except RecursionError:
        raise ValueError(
            f"like: {path} holds no JSON that can be read: nested too deeply"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"like: {path} holds no JSON ({str(error)[-200:]})") from error
    if not isinstance(whole, dict):
        raise ValueError(f"like: {path} holds {type(whole).__name__}, not an object")
    return whole


def _part(whole: Mapping[str, Any]) -> _Part:
    """The language model of a whole file."""
    below = next((key for key in BELOW if isinstance(whole.get(key), dict)), None)
    if below is None:
        return _Part(said=_one_name(whole), at="", kind=whole.get("model_type"))
    said = _one_name(whole[below])
    if whole.get("tie_word_embeddings") is True:
        # Transformers ties the two of a whole model where either place says so.
        said["tie_word_embeddings"] = True
    kind = said.get("model_type")
    if kind is None:
        kind = TEXT_OF.get(str(whole.get("model_type")))
    return _Part(said=said, at=f"{below}.", kind=kind)


def _one_name(said: Mapping[str, Any]) -> dict[str, Any]:
    """With one of the two names that transformers has for the number of experts."""
    said = dict(said)
    key = _EXPERT_KEYS.get(str(said.get("model_type")), {}).get("experts")
    for other in _NUM_EXPERTS:
        if key is not None and other != key and said.get(other) is not None:
            said[key] = said.pop(other)
    return said


def _expert_keys(part: _Part) -> dict[str, str]:
    return _EXPERT_KEYS.get(str(part.kind), {})


def _key(part: _Part, name: str) -> str:
    keys = {"rope_base": "rope_theta", "rope_scaling": "rope_scaling.factor"}
    return (_KEYS | keys | _expert_keys(part)).get(name, name)


def _values(part: _Part) -> dict[str, Any]:
    """Fields of a shape that the file says, or its type where it does not; without those that
    follow from others (``head_dim``, ``kv_heads``)."""
    filled, expert_keys = part.filled, _expert_keys(part)
    keys = {name: key for name, key in _KEYS.items() if key in filled} | expert_keys
    values = {name: filled[key] for name, key in keys.items()}
    values |= rope_values(filled)
    values |= {"qkv_bias": part.kind == "qwen2", "qk_norm": part.kind in ("qwen3", "qwen3_moe")}
    if part.kind == "mixtral":
        values["router_normalized"] = True
    if not expert_keys:
        values["experts"] = 0
    return {name: value for name, value in values.items() if value is not None}


def _refused(part: _Part) -> Iterator[tuple[str | None, str]]:
    """What the file wants and this model has not, with the field that would set it."""
    at, kind = part.at, part.kind
    if not isinstance(kind, str) or kind not in CLASSES:
        yield None, f"says {at}model_type {kind!r}; read are {', '.join(CLASSES)}"
        return
    for said in KEYS[kind].nulls(part.said, at):
        yield None, said
    for name in _NUM_EXPERTS if _expert_keys(part) else ():
        if name not in KEYS[kind].defaults and part.said.get(name, "") is None:
            yield None, f"says {at}{name} null; expected a number"
    filled = part.filled
    if (act := filled["hidden_act"]) not in ("silu", "swish"):
        yield None, f"says {at}hidden_act {act!r}; the gate has no other than silu here"
    for key, what in {
        "attention_bias": "a bias of the attention's output",
        "mlp_bias": "biases of the MLPs",
        "mlp_only_layers": "dense layers among those of experts",
        "quantization_config": "quantized weights",
    }.items():
        if filled.get(key):
            yield None, f"says {at}{key} {filled[key]!r}: {what} cannot be here"
    if (step := filled.get("decoder_sparse_step", 1)) != 1:
        said = "dense layers among those of experts cannot be here"
        yield None, f"says {at}decoder_sparse_step {step}: {said}"
    yield from ((None, said) for said in _refused_windows(part, filled))
    yield from (("rope_scaling", said) for said in refused_rope(filled, at))


def _refused_windows(part: _Part, filled: Mapping[str, Any]) -> Iterator[str]:
    window = filled.get("sliding_window")
    if filled.get("use_sliding_window", True) and window is not None:
        key = f"{part.at}sliding_window"
        if part.said.get("sliding_window") is not None:
            says = f"says {key} {window}"
        else:
            says = f"lacks {key}, which its type takes as {window}"
        yield f"{says}: every layer here looks at the whole sequence"
    others = set(filled.get("layer_types") or ()) - {"full_attention"}
    if others:
        yield (
            f"says {part.at}layer_types with {', '.join(sorted(map(str, others)))}: every layer "
            "here is of full_attention"
        )
