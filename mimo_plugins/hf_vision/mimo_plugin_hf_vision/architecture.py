"""A tower as its ``config.json`` tells it, without transformers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import attrs

from mimo_core import MimoError
from mimo_plugin_hf_vision import families
from mimo_plugin_hf_vision.files import find_model, read_json
from mimo_plugin_hf_vision.options import Options

_NEEDED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")


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
    whole = read_json(directory / "config.json")
    outer = whole.get("model_type")
    said, model_type = whole, outer
    if "vision_config" in whole or outer in families.TOWER_OF:
        said = whole.get("vision_config") or {}
        model_type = said.get("model_type") or families.TOWER_OF.get(outer or "")
        # Releases of before transformers 4.3x name the whole model here.
        model_type = families.TOWER_OF.get(model_type or "", model_type)
    if not model_type:
        raise MimoError(f"{directory / 'config.json'} says no model_type of a vision tower")
    config = {**families.DEFAULTS.get(model_type, {}), **said}
    missing = [key for key in _NEEDED if config.get(key) is None]
    if missing:
        raise MimoError(
            f"{directory / 'config.json'} (model_type {model_type!r}) says no "
            f"{', '.join(missing)}: hf-vision reads towers of transformer layers of one width that "
            "cut pictures into patches, such as SigLIP, CLIP or DINOv2"
        )
    tokens = given_tokens
    if tokens is None:
        tokens = families.class_tokens(model_type, config)
    if tokens is None:
        raise MimoError(
            f"{directory / 'config.json'}: of model_type {model_type!r} it is not known how many "
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
