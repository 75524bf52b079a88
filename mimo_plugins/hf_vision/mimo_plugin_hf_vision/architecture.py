"""A tower as its ``config.json`` tells it, without transformers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import attrs

from mimo_core import MimoError
from mimo_plugin_hf_vision import families
from mimo_plugin_hf_vision.files import check_types, find_model, read_json
from mimo_plugin_hf_vision.options import Options

_SIDES = ("image_size", "patch_size")
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
    layer, states = options.select_layer, found.layers + 1
    if layer is not None and not -states <= layer < states:
        raise MimoError(
            f"hf-vision option select_layer={layer}: {options.model} has {found.layers} layers, "
            f"so {states} hidden states: give -{states} to {found.layers}"
        )
    return found


@cache
def _read(model: str, revision: str | None, given_tokens: int | None) -> Architecture:
    directory = find_model(model, revision)
    file = directory / "config.json"
    whole = read_json(file)
    check_types(file, whole, {"model_type": str, "vision_config": dict})
    outer = whole.get("model_type")
    said, model_type, at = whole, outer, None
    if "vision_config" in whole or outer in families.TOWER_OF:
        said, at = whole.get("vision_config") or {}, "vision_config"
        check_types(file, said, {"model_type": str}, at)
        model_type = said.get("model_type") or families.TOWER_OF.get(outer or "")
        # Releases of before transformers 4.3x name the whole model here.
        model_type = families.TOWER_OF.get(model_type or "", model_type)
    if not model_type:
        raise MimoError(f"{file} says no model_type of a vision tower")
    config = {
        **families.DEFAULTS.get(model_type, {}),
        **{key: value for key, value in said.items() if value is not None},
    }
    missing = [key for key in _NEEDED if config.get(key) is None]
    if missing:
        raise MimoError(
            f"{file} (model_type {model_type!r}) says no "
            f"{', '.join(missing)}: hf-vision reads towers of transformer layers of one width that "
            "cut pictures into patches, such as SigLIP, CLIP or DINOv2"
        )
    check_types(file, said, _TYPES, at)
    for key in _COUNTS:
        _check_count(file, key, config.get(key))
    tokens = given_tokens
    if tokens is None:
        tokens = families.class_tokens(model_type, config)
    if tokens is None:
        raise MimoError(
            f"{file}: of model_type {model_type!r} it is not known how many "
            "class and register tokens come before a picture's patches; set the option "
            "class_tokens"
        )
    return Architecture(
        directory=directory,
        model_type=model_type,
        said=said,
        config=config,
        class_tokens=tokens,
    )


def _check_count(file: Path, key: str, value: int | list[int] | None) -> None:
    """Whether sizes are above 0; of height and width there are two."""
    if isinstance(value, list) and len(value) != 2:
        raise MimoError(f"{file} says {key} {value}; expected one number, or height and width")
    if value is not None and min(value if isinstance(value, list) else [value]) < 1:
        raise MimoError(f"{file} says {key} {value}; expected 1 or more")
