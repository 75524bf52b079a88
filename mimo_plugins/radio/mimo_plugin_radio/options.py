"""The options of a recipe's module with ``plugin: radio``."""

from __future__ import annotations

import math
from typing import Any, Literal

import attrs

from mimo_core import ModuleConfig

Triple = tuple[float, float, float]

PRESETS: dict[str, dict[str, int]] = {
    "base": {"hidden_size": 768, "layers": 12, "heads": 12},
    "large": {"hidden_size": 1024, "layers": 24, "heads": 16},
    "huge": {"hidden_size": 1280, "layers": 32, "heads": 16},
}
"""The sizes in which RADIO is released."""


MOST_LAYERS = 10_000
"""The plan counts layer by layer."""


def _positive(_options: Options, field: attrs.Attribute[Any], value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"radio option {field.name}={value}: expected 1 or more")


def _few_enough(_options: Options, field: attrs.Attribute[Any], value: int | None) -> None:
    if value is not None and value > MOST_LAYERS:
        raise ValueError(f"radio option {field.name}={value}: expected at most {MOST_LAYERS:,}")


def _share(_options: Options, field: attrs.Attribute[float], value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"radio option {field.name}={value}: expected a probability below 1")


def _spread(_options: Options, field: attrs.Attribute[Triple], value: Triple) -> None:
    if not all(0 < number < math.inf for number in value):
        raise ValueError(
            f"radio option {field.name}={value}: pixels are divided by it, so each must be above 0 "
            "and finite"
        )


@attrs.frozen(kw_only=True)
class Options:
    """The architecture of the tower, its pictures, and its projector."""

    size: Literal["custom", "base", "large", "huge"] = "custom"
    """A released size, or ``custom``: ``hidden_size``, ``layers`` and ``heads`` say it."""
    hidden_size: int | None = attrs.field(default=None, validator=_positive)
    """Width of the transformer; taken from ``size`` where not given."""
    layers: int | None = attrs.field(default=None, validator=[_positive, _few_enough])
    """Transformer layers; taken from ``size`` where not given."""
    heads: int | None = attrs.field(default=None, validator=_positive)
    """Attention heads; taken from ``size`` where not given."""
    ffn_hidden_size: int | None = attrs.field(default=None, validator=_positive)
    """Width inside the feed-forward layers; by default four times ``hidden_size``."""

    resolution: Literal["fixed", "dynamic"] = "fixed"
    """``fixed``: every picture becomes a square of ``image_size``. ``dynamic``: it keeps its aspect
    ratio, within budgets of sequence positions; pictures of a microbatch are packed."""
    image_size: int | None = attrs.field(default=None, validator=_positive)
    """Fixed resolution: side of the square, 512 by default."""
    max_positions: int | None = attrs.field(default=None, validator=_positive)
    """Dynamic resolution: most sequence positions of one picture, 1024 by default."""
    min_positions: int | None = attrs.field(default=None, validator=_positive)
    """Dynamic resolution: fewest sequence positions of one picture, 16 by default. A smaller one is
    enlarged."""
    sample_positions: int | None = attrs.field(default=None, validator=_positive)
    """Dynamic resolution: most sequence positions of all pictures of a sample; by default each
    picture has its own budget only."""
    patch_size: int = attrs.field(default=16, validator=_positive)
    """Side of a patch in pixels."""
    max_image_size: int = attrs.field(default=2048, validator=_positive)
    """Side of the square that the grid of position embeddings covers; it is interpolated to each
    picture's, smaller or larger."""
    mean: Triple = (0.48145466, 0.4578275, 0.40821073)
    """Taken from the pixels (0 to 1) of each colour; the default is RADIO's, which is CLIP's."""
    std: Triple = attrs.field(default=(0.26862954, 0.26130258, 0.27577711), validator=_spread)
    """What the pixels are divided by after that."""

    class_tokens: int = 8
    """Learned positions before the patches (RADIO's class and register tokens together)."""
    keep_class_tokens: bool = False
    """Give them to the language model too, before each picture's patches."""
    pixel_shuffle: bool = True
    """Join 2x2 patches into one position of four times the width."""
    position_crop: bool = False
    """In training, a random crop of the position grid for each picture, as RADIO was trained
    (CPE); in evaluation, and without this, the whole grid."""
    dropout: float = attrs.field(default=0.0, validator=_share)
    """In training, after attention and feed-forward layers and on the attention weights."""
    flash_attention: bool = attrs.field(default=False, metadata={"changes_model": False})
    """Dynamic resolution, on Hopper GPUs in bf16: attention by flash-attn-4 (``pip install --pre
    'flash-attn-4[cu13]'``), faster for heads of 80, as ``huge`` has. Elsewhere it is not read."""
    norm_epsilon: float = 1e-6
    """Of the layer norms."""

    projector: Literal["affine", "mlp"] = "affine"
    """From the tower to the language model: one linear layer, or two with a squared ReLU."""
    projector_hidden_size: int | None = attrs.field(default=None, validator=_positive)
    """Width inside the MLP projector; by default four times the tower's output."""
    projector_norm: Literal["none", "rms"] = "none"
    """``rms``: an RMS norm before the projector, as in NVIDIA's vision-language models."""
    projector_bias: bool = True
    """The projector's linear layers have biases."""
    media: str = "image"
    """The kind of the samples' media that it reads, so that two modules can read different ones."""
    placeholder: str | None = None
    """The symbol that stands for a picture's positions; by default the module's name in angle
    brackets, such as ``<vision>``, so that no two modules share one."""

    def __attrs_post_init__(self) -> None:
        self._check_architecture()
        self._check_positions()
        self._check_resolution()
        self._check_flash_attention()
        if self.projector == "affine" and self.projector_hidden_size is not None:
            raise ValueError(
                f"radio option projector_hidden_size={self.projector_hidden_size}: an affine "
                "projector has no hidden layer; leave it out or set projector=mlp"
            )

    def _check_architecture(self) -> None:
        if self.size == "custom":
            missing = [name for name in PRESETS["base"] if getattr(self, name) is None]
            if missing:
                raise ValueError(
                    f"radio option size=custom: {', '.join(missing)} not given; set "
                    f"{'it' if len(missing) == 1 else 'them'}, or size to one of "
                    f"{', '.join(PRESETS)}"
                )
        if self.tower_width % self.tower_heads:
            raise ValueError(
                f"radio options hidden_size={self.tower_width}, heads={self.tower_heads}: the "
                "width must be a multiple of the number of heads"
            )

    def _check_flash_attention(self) -> None:
        if not self.flash_attention:
            return
        head = self.tower_width // self.tower_heads
        hindrances = {
            f"resolution={self.resolution} (pictures that are not packed)": (
                self.resolution != "dynamic"
            ),
            f"dropout={self.dropout} (on attention weights, which it has none of)": (
                self.dropout > 0
            ),
            f"heads of {head} (128 at most, in multiples of 8)": head > 128 or head % 8 > 0,
        }
        for hindrance in (name for name, there in hindrances.items() if there):
            raise ValueError(
                f"radio option flash_attention=true: does not go with {hindrance}; leave one of "
                "both out"
            )

    def _check_positions(self) -> None:
        if self.max_image_size % self.patch_size:
            raise ValueError(
                f"radio option max_image_size={self.max_image_size}: must be a multiple of "
                f"patch_size={self.patch_size}"
            )
        if self.class_tokens < 0:
            raise ValueError(f"radio option class_tokens={self.class_tokens}: expected 0 or more")
        if self.keep_class_tokens and self.pixel_shuffle:
            raise ValueError(
                "radio options keep_class_tokens=true, pixel_shuffle=true: shuffled patches are "
                "four times as wide as a class token, so they cannot share a sequence; turn one off"
            )
        if self.keep_class_tokens and not self.class_tokens:
            raise ValueError("radio options keep_class_tokens=true, class_tokens=0: none to keep")

    def _check_resolution(self) -> None:
        other = {
            "fixed": ("max_positions", "min_positions", "sample_positions"),
            "dynamic": ("image_size",),
        }[self.resolution]
        unread = [name for name in other if getattr(self, name) is not None]
        if unread:
            said = ", ".join(f"{name}={getattr(self, name)}" for name in unread)
            raise ValueError(
                f"radio option {said}: not read where resolution={self.resolution}; leave it out, "
                f"or set resolution={'dynamic' if self.resolution == 'fixed' else 'fixed'}"
            )
        if self.resolution == "dynamic":
            self._check_budgets()
        else:
            self._check_square()

    def _check_square(self) -> None:
        if self.image_side % self.unit:
            raise ValueError(
                f"radio option image_size={self.image_side}: must be a multiple of {self.unit} "
                f"(patch_size={self.patch_size}"
                f"{', times 2 for pixel_shuffle' if self.pixel_shuffle else ''})"
            )
        if self.position_crop and self.image_side == self.max_image_size:
            raise ValueError(
                f"radio options position_crop=true, image_size=max_image_size={self.image_side}: "
                "megatron-core crops only a position grid of another size than the picture's; "
                "turn it off or make max_image_size larger"
            )

    def _check_budgets(self) -> None:
        if self.most_units < 2 * self.least_units:
            kept = f" (besides {self.kept_tokens} class tokens kept)" if self.kept_tokens else ""
            raise ValueError(
                f"radio options max_positions={self.most_positions}, min_positions="
                f"{self.least_positions}: the most must be at least twice the fewest{kept}, or "
                "some aspect ratios have no grid between them"
            )
        if self.sample_positions is not None and self.sample_positions < self.least_positions:
            raise ValueError(
                f"radio options sample_positions={self.sample_positions}, min_positions="
                f"{self.least_positions}: not one picture would fit; raise the first or lower the "
                "second"
            )

    @property
    def tower_width(self) -> int:
        """Width of the transformer."""
        return self._architecture("hidden_size")

    @property
    def tower_layers(self) -> int:
        return self._architecture("layers")

    @property
    def tower_heads(self) -> int:
        return self._architecture("heads")

    @property
    def tower_ffn_width(self) -> int:
        """Width inside the transformer's feed-forward layers."""
        return self.ffn_hidden_size or 4 * self.tower_width

    @property
    def output_width(self) -> int:
        """Features of a position that the tower puts out."""
        return self.tower_width * (4 if self.pixel_shuffle else 1)

    @property
    def projector_width(self) -> int:
        """Width inside the MLP projector."""
        return self.projector_hidden_size or 4 * self.output_width

    @property
    def unit(self) -> int:
        """Pixels of a sequence position's side."""
        return self.patch_size * (2 if self.pixel_shuffle else 1)

    @property
    def kept_tokens(self) -> int:
        """Class tokens of each picture that the language model gets."""
        return self.class_tokens if self.keep_class_tokens else 0

    @property
    def image_side(self) -> int:
        """Side of every picture in fixed resolution."""
        return self.image_size or 512

    @property
    def most_positions(self) -> int:
        """Sequence positions of the largest picture in dynamic resolution."""
        return self.max_positions or 1024

    @property
    def least_positions(self) -> int:
        """Sequence positions of the smallest picture in dynamic resolution."""
        return self.min_positions or 16

    @property
    def most_units(self) -> int:
        """Units (positions without class tokens) of the largest picture in dynamic resolution."""
        return self.most_positions - self.kept_tokens

    @property
    def least_units(self) -> int:
        """Units of the smallest picture in dynamic resolution."""
        return max(1, self.least_positions - self.kept_tokens)

    def positions_of(self, size: tuple[int, int]) -> int:
        """Sequence positions of a picture of this height and width (whole units)."""
        return (size[0] // self.unit) * (size[1] // self.unit) + self.kept_tokens

    def _architecture(self, field: str) -> int:
        given = getattr(self, field)
        return int(PRESETS[self.size][field] if given is None else given)


def options_of(module: ModuleConfig) -> Options:
    """The module's options, typed."""
    assert isinstance(module.options, Options), f"{module.name}: {module.options!r}"
    return module.options
