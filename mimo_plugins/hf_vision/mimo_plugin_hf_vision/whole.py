"""What the ``config.json`` of a whole vision-language model says of its tower's rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from mimo_core import ConfigKeys, MimoError
from mimo_plugin_hf_vision import families
from mimo_plugin_hf_vision.config_tables import KEYS
from mimo_plugin_hf_vision.files import check_types

Tokens = Literal["patches", "all"]
LAYER, STRATEGY = "vision_feature_layer", "vision_feature_select_strategy"
ACTIVATION, BIAS = "projector_hidden_act", "multimodal_projector_bias"
_LLAVA = {LAYER: -2, STRATEGY: "default", ACTIVATION: "gelu", BIAS: True}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(("llava", "llava_next", "llava_next_video", "video_llava"), _LLAVA),
    "llava_onevision": {**_LLAVA, LAYER: -1, STRATEGY: "full"},
    "fast_vlm": {**_LLAVA, LAYER: -1, STRATEGY: "full"},
    "granite4_vision": {LAYER: -2, STRATEGY: "default"},
    "internvl": {LAYER: -1, STRATEGY: "default"},
    "qianfan_ocr": {LAYER: -1, STRATEGY: "default"},
    "aya_vision": {LAYER: -1, STRATEGY: "full"},
    "mistral3": {LAYER: -1},
    "mistral_large4": {LAYER: -1},
    "aria": {LAYER: -1},
}
"""What a file of these types leaves out; facts of transformers, which a test compares."""
_TYPES: Mapping[str, Any] = {
    LAYER: int | list[int],
    STRATEGY: str,
    ACTIVATION: str,
    BIAS: bool,
}
_TOKENS: Mapping[str, Tokens] = {"default": "patches", "full": "all"}
_TOWERS = {
    "clip_vision_model": (
        *("clip", "llava", "llava_next", "llava_next_video", "video_llava", "vipllava"),
        "granite4_vision",
    ),
    "siglip_vision_model": (
        *("siglip", "aya_vision", "cohere2_vision", "deepseek_vl", "deepseek_vl_hybrid", "gemma3"),
        *("llava_onevision", "modernvbert", "paligemma", "shieldgemma2"),
    ),
}
TOWER_OF: Mapping[str, str] = {whole: tower for tower, all_ in _TOWERS.items() for whole in all_}
"""The type of the tower in a whole model's config that does not say it."""


@attrs.frozen(kw_only=True)
class Part:
    """The tower in a file."""

    said: Mapping[str, Any]
    """Its keys, as they stand there."""
    at: str
    """Where, before a key: ``vision_config.``, or nothing."""
    model_type: str | None


def tower_of(file: Path, whole: Mapping[str, Any]) -> Part:
    """The tower of a file, which may be that of a whole model.

    Raises:
        MimoError: a value has another type.
    """
    check_types(file, whole, {"model_type": str, "vision_config": dict})
    outer = whole.get("model_type")
    if "vision_config" not in whole and outer not in TOWER_OF:
        return Part(said=whole, at="", model_type=outer)
    said = whole.get("vision_config") or {}
    check_types(file, said, {"model_type": str}, "vision_config")
    # Releases of before transformers 4.3x name the whole model here.
    inner = said.get("model_type") or TOWER_OF.get(outer or "")
    return Part(said=said, at="vision_config.", model_type=TOWER_OF.get(inner or "", inner))


def rows_of(file: Path, whole: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of a whole model that say which rows of its tower it reads, and how it projects them;
    empty of a file that says neither.

    Raises:
        MimoError: a value has another type.
    """
    check_types(file, whole, _TYPES)
    said = {key: whole[key] for key in _TYPES if whole.get(key) is not None}
    return {**DEFAULTS.get(str(whole.get("model_type")), {}), **said}


def select_layer(file: Path, rows: Mapping[str, Any]) -> int | None:
    """The hidden state that the whole model reads; ``None`` where it does not say.

    Raises:
        MimoError: it reads several.
    """
    layer = rows.get(LAYER)
    if isinstance(layer, list):
        raise MimoError(
            f"{file} says {LAYER} {layer}: rows are of one layer here; set the option select_layer",
            code="hf-vision.unsupported-rows",
            file=str(file),
            key=LAYER,
            value=layer,
        )
    return layer


def tokens(file: Path, rows: Mapping[str, Any], num_class_tokens: int) -> Tokens | None:
    """The rows of a picture that the whole model reads; ``None`` where it does not say.

    Raises:
        MimoError: they can be none of those that the option ``tokens`` names.
    """
    strategy = rows.get(STRATEGY)
    if strategy is None:
        return None
    if strategy not in _TOKENS:
        raise MimoError(
            f"{file} says {STRATEGY} {strategy!r}; read are default and full",
            code="hf-vision.unsupported-rows",
            file=str(file),
            key=STRATEGY,
            value=strategy,
            choices=tuple(_TOKENS),
        )
    if strategy == "default" and num_class_tokens != 1:
        raise MimoError(
            f"{file} says {STRATEGY} 'default', which leaves out a picture's first row, but its "
            f"tower has {num_class_tokens} class and register tokens before the patches; set the "
            "option tokens",
            code="hf-vision.unsupported-rows",
            file=str(file),
            key=STRATEGY,
            value=strategy,
            class_tokens=num_class_tokens,
        )
    return _TOKENS[strategy]


def unlike_projector(rows: Mapping[str, Any]) -> Iterator[str]:
    """Where a whole model's projector is none that can be here, each to be read after the name of
    the file."""
    due = {ACTIVATION: ("gelu", "the projector has no other"), BIAS: (True, "it has biases here")}
    for key, (value, meaning) in due.items():
        if key in rows and rows[key] != value:
            yield f"says {key} {rows[key]!r}, but here it is {value!r}: {meaning}"


def unlike_tower(
    said: Mapping[str, Any], tower: Mapping[str, Any], model_type: str, at: str, model: str
) -> Iterator[str]:
    """Where a file's tower is another than that of the options, each to be read after its name.

    Args:
        said: The tower's keys in the file.
        tower: The tower's keys in ``options.model``.
        model_type: Of both.
        at: Where the keys are in the file.
        model: The option.
    """
    table = KEYS.get(model_type)
    defaults = table.defaults if table else {}
    ours, theirs = (
        {**defaults, **{key: value for key, value in keys.items() if value is not None}}
        for keys in (tower, said)
    )
    known = ConfigKeys(defaults={}, ignored=frozenset(families.IGNORED))
    for key in sorted(ours.keys() | theirs.keys()):
        if any(known.notes({key: True})) and theirs.get(key) != ours.get(key):
            says = f"says {at}{key} {theirs[key]!r}" if key in theirs else f"lacks {at}{key}"
            yield f"{says}, but options.model ({model}) has {ours.get(key)!r}: it is another tower"
