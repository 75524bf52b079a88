"""A tower as its ``config.json`` tells it, without transformers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import attrs

from mimo_core import MimoError
from mimo_plugin_hf_vision import config_tables, families, whole
from mimo_plugin_hf_vision.files import check_types, find_model, read_json
from mimo_plugin_hf_vision.options import Options
from mimo_plugin_hf_vision.whole import Tokens

_SIDES = ("image_size", "patch_size")
MOST_LAYERS = 10_000
"""The plan counts layer by layer."""
_NEEDED = ("hidden_size", "num_hidden_layers", "num_attention_heads", *_SIDES)
_COUNTS = (*_NEEDED, "intermediate_size", "num_channels")
_DROPOUTS = (
    *("hidden_dropout_prob", "drop_path_rate"),
    *("attention_dropout", "attention_probs_dropout_prob"),
)
_TYPES: Mapping[str, Any] = {
    **dict.fromkeys((*_COUNTS, "num_register_tokens"), int),
    **dict.fromkeys(_SIDES, int | list[int]),
    **dict.fromkeys(("layer_norm_eps", "mlp_ratio", *_DROPOUTS), float),
    **dict.fromkeys(("vision_use_head", "qkv_bias", "use_swiglu_ffn", "use_mask_token"), bool),
    "hidden_act": str,
}
"""Of all that is read here; the rest of the file is transformers' alone."""


@attrs.frozen(kw_only=True)
class Architecture:
    """The tower of a model's directory."""

    directory: Path
    model_type: str
    """As transformers names the tower's own config."""
    said: Mapping[str, Any]
    """The tower's part of ``config.json``, as it stands there."""
    config: Mapping[str, Any]
    """The same with the family's defaults."""
    class_tokens: int
    """Class and register tokens before a picture's patches."""
    rows: Mapping[str, Any] = attrs.field(factory=dict)
    """What a whole model's file says of the rows that it reads: see ``whole.rows_of``."""
    select_layer: int | None = None
    """The hidden state that is read, of the option or of a whole model's file; ``None`` for the
    tower's output."""
    tokens: Tokens = "patches"
    """The rows of a picture, of the option or of a whole model's file."""

    @property
    def width(self) -> int:
        return int(self.config["hidden_size"])

    @property
    def layers(self) -> int:
        return int(self.config["num_hidden_layers"])

    @property
    def heads(self) -> int:
        return int(self.config["num_attention_heads"])

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width that the model's position embeddings were made for."""
        return families.sides(self.config, "image_size")

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch."""
        return families.sides(self.config, "patch_size")

    def dropout(self, *keys: str) -> float:
        """The largest probability under any of these names."""
        return max(float(self.config.get(key) or 0.0) for key in keys)

    def patches(self, size: tuple[int, int]) -> int:
        """Patches of a picture of this height and width."""
        return (size[0] // self.patch_size[0]) * (size[1] // self.patch_size[1])


def architecture(options: Options) -> Architecture:
    """The tower that the options name; read once a process.

    Raises:
        MimoError: its files are not there, or tell of no tower that can be read.
    """
    found = _read(options.model, options.revision, options.class_tokens)
    file = found.directory / "config.json"
    layer, states = options.select_layer, found.layers + 1
    if layer is None:
        layer = whole.select_layer(file, found.rows)
    if layer is not None and not -states <= layer < states:
        source = "hf-vision option select_layer="
        if options.select_layer is None:
            source = f"{file} says {whole.LAYER} "
        raise MimoError(
            f"{source}{layer}: {options.model} has {found.layers} layers, "
            f"so {states} hidden states: give -{states} to {found.layers}",
            code="hf-vision.invalid-value",
            file=str(file),
            key="select_layer",
            value=layer,
            hidden_states=states,
        )
    tokens = options.tokens or whole.tokens(file, found.rows, found.class_tokens) or "patches"
    return attrs.evolve(found, select_layer=layer, tokens=tokens)


@cache
def _read(model: str, revision: str | None, given_tokens: int | None) -> Architecture:
    directory = find_model(model, revision)
    file = directory / "config.json"
    held = read_json(file)
    part = whole.tower_of(file, held)
    said, model_type, at = part.said, part.model_type, part.at.rstrip(".") or None
    if not model_type:
        raise MimoError(
            f"{file} says no model_type of a vision tower",
            code="hf-vision.missing-key",
            file=str(file),
            key="model_type",
        )
    if wrong := list(config_tables.mistakes(model_type, said, part.at)):
        raise MimoError(
            f"{file} {'; '.join(wrong)}",
            code="hf-vision.unsupported-model",
            file=str(file),
            model_type=model_type,
            mistakes=tuple(wrong),
        )
    known = config_tables.KEYS.get(model_type)
    config = {
        **(known.defaults if known else {}),
        **{key: value for key, value in said.items() if value is not None},
    }
    missing = [key for key in _NEEDED if config.get(key) is None]
    if missing:
        raise MimoError(
            f"{file} (model_type {model_type!r}) says no "
            f"{', '.join(missing)}: hf-vision reads towers of transformer layers of one width that "
            "cut pictures into patches, such as SigLIP, CLIP or DINOv2",
            code="hf-vision.unsupported-model",
            file=str(file),
            model_type=model_type,
            missing=tuple(missing),
        )
    check_types(file, said, _TYPES, at)
    if config.get("num_channels", 3) != 3:
        raise MimoError(
            f"{file} says {part.at}num_channels {config['num_channels']}; pictures have 3 here",
            code="hf-vision.unsupported-model",
            file=str(file),
            key="num_channels",
            value=config["num_channels"],
        )
    for key in _COUNTS:
        _check_count(file, key, config.get(key))
    tokens = given_tokens
    if tokens is None:
        tokens = families.class_tokens(model_type, config)
    if tokens is None:
        raise MimoError(
            f"{file}: of model_type {model_type!r} it is not known how many "
            "class and register tokens come before a picture's patches; set the option "
            "class_tokens",
            code="hf-vision.missing-key",
            file=str(file),
            key="class_tokens",
            model_type=model_type,
        )
    return Architecture(
        directory=directory,
        model_type=model_type,
        said=said,
        config=config,
        class_tokens=tokens,
        rows=whole.rows_of(file, held),
    )


def _check_count(file: Path, key: str, value: int | list[int] | None) -> None:
    """Whether sizes are above 0; of height and width there are two."""
    if isinstance(value, list) and len(value) != 2:
        raise MimoError(
            f"{file} says {key} {value}; expected one number, or height and width",
            code="hf-vision.invalid-value",
            file=str(file),
            key=key,
            value=value,
        )
    if value is not None and min(value if isinstance(value, list) else [value]) < 1:
        raise MimoError(
            f"{file} says {key} {value}; expected 1 or more",
            code="hf-vision.invalid-value",
            file=str(file),
            key=key,
            value=value,
        )
    if key == "num_hidden_layers" and isinstance(value, int) and value > MOST_LAYERS:
        raise MimoError(
            f"{file} says {key} {value}; expected {MOST_LAYERS:,} or fewer",
            code="hf-vision.invalid-value",
            file=str(file),
            key=key,
            value=value,
            most=MOST_LAYERS,
        )
