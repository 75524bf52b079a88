"""The options of a recipe's module with ``plugin: hf-vision``."""

from __future__ import annotations

import math
from typing import Any, Literal

import attrs

from mimo_core import ModuleConfig

Triple = tuple[float, float, float]


def _positive(_options: Options, field: attrs.Attribute[Any], value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"hf-vision option {field.name}={value}: expected 1 or more")


def _count(_options: Options, field: attrs.Attribute[Any], value: int | None) -> None:
    if value is not None and value < 0:
        raise ValueError(f"hf-vision option {field.name}={value}: expected 0 or more")


def wrong_colours(values: Any, *, divisor: bool) -> str | None:
    """Why this cannot be a number for each of three colours; ``divisor``: pixels are divided by
    them."""
    if not (
        isinstance(values, list | tuple)
        and len(values) == 3
        and all(type(value) in (int, float) and math.isfinite(value) for value in values)
    ):
        return "expected three finite numbers, one for each colour"
    if divisor and min(values) <= 0:
        return "pixels are divided by it, so each must be above 0"
    return None


def _colours(_options: Options, field: attrs.Attribute[Any], value: Triple | None) -> None:
    if value is not None and (why := wrong_colours(value, divisor=field.name == "std")):
        raise ValueError(f"hf-vision option {field.name}={list(value)}: {why}")


@attrs.frozen(kw_only=True)
class Options:
    """Which tower, what of it the language model gets, and the projector between them."""

    model: str
    """A directory with the model's ``config.json``, or its name on the Hugging Face hub."""
    revision: str | None = None
    """Of a name on the hub, for ``weights`` of the same name too: a commit, so that every machine
    has the same files, or a branch or tag; by default ``main`` as this machine knows it."""
    tokens: Literal["patches", "all"] | None = None
    """What the language model gets of each picture: its ``patches``, or ``all``: class and register
    tokens too, before them. By default what a whole model's ``config.json`` says (LLaVA's
    ``vision_feature_select_strategy``), else ``patches``."""
    select_layer: int | None = None
    """Which of transformers' hidden states it gets: 0 for the embeddings, 1 for the first layer's
    output, -1 for the last's, -2 for that before it. By default what a whole model's
    ``config.json`` says (LLaVA's ``vision_feature_layer``), else the tower's output, its final norm
    included where it has one."""
    image_size: int | None = attrs.field(default=None, validator=_positive)
    """Side of the square that the tower sees; by default what ``preprocessor_config.json`` says.
    Position embeddings are interpolated where the model was made for another."""
    mean: Triple | None = attrs.field(default=None, validator=_colours)
    """Taken from the pixels (0 to 1) of each colour; by default what ``preprocessor_config.json``
    says, like the next."""
    std: Triple | None = attrs.field(default=None, validator=_colours)
    """What the pixels are divided by after that."""
    class_tokens: int | None = attrs.field(default=None, validator=_count)
    """Class and register tokens that the tower puts before a picture's patches; known of SigLIP,
    CLIP, DINOv2 and some others, to be given for the rest."""
    attention: str | None = None
    """Attention as transformers names it (``sdpa``, ``eager``, ``flash_attention_2``); by default
    its own choice."""
    recompute: bool = False
    """Compute each layer again for its backward, instead of keeping what it computed."""

    projector: Literal["affine", "mlp"] = "affine"
    """From the tower to the language model: one linear layer, or two with a GELU between (as
    LLaVA 1.5)."""
    projector_hidden_size: int | None = attrs.field(default=None, validator=_positive)
    """Width inside the MLP projector; by default the language model's."""
    media: str = "image"
    """The kind of the samples' media that it reads, so that two modules can read different ones."""
    placeholder: str | None = None
    """The symbol that stands for a picture's positions; by default the module's name in angle
    brackets, such as ``<vision>``, so that no two modules share one."""

    def __attrs_post_init__(self) -> None:
        if self.projector == "affine" and self.projector_hidden_size is not None:
            raise ValueError(
                f"hf-vision option projector_hidden_size={self.projector_hidden_size}: an affine "
                "projector has no hidden layer; leave it out or set projector=mlp"
            )


def options_of(module: ModuleConfig) -> Options:
    """The module's options, typed."""
    assert isinstance(module.options, Options), f"{module.name}: {module.options!r}"
    return module.options
