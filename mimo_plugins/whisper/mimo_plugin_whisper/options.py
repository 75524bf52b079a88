"""The options of a recipe's module with ``plugin: whisper``."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from mimo_core import ModuleConfig

SAMPLE_RATE = 16_000
"""Samples a second that the front end works on; sounds of other rates are resampled."""
HOP = 160
"""Samples from one mel frame to the next."""
N_FFT = 400
"""Samples of a mel frame's window."""
POSITION = 2 * HOP
"""Samples of an encoder position: the second convolution halves the frames."""
POSITIONS_A_SECOND = SAMPLE_RATE // POSITION

PRESETS: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 384, "layers": 4, "heads": 6},
    "base": {"hidden_size": 512, "layers": 6, "heads": 8},
    "small": {"hidden_size": 768, "layers": 12, "heads": 12},
    "medium": {"hidden_size": 1024, "layers": 24, "heads": 16},
    "large": {"hidden_size": 1280, "layers": 32, "heads": 20},
}
"""The sizes in which Whisper is released."""


MOST_LAYERS = 10_000
"""The plan counts layer by layer."""


def _positive(_options: Options, field: attrs.Attribute[Any], value: float | None) -> None:
    if value is not None and value <= 0:
        raise ValueError(f"whisper option {field.name}={value}: expected a number above 0")


def _few_enough(_options: Options, field: attrs.Attribute[Any], value: int | None) -> None:
    if value is not None and value > MOST_LAYERS:
        raise ValueError(f"whisper option {field.name}={value}: expected at most {MOST_LAYERS:,}")


def _share(_options: Options, field: attrs.Attribute[float], value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"whisper option {field.name}={value}: expected a probability below 1")


@attrs.frozen(kw_only=True)
class Options:
    """The architecture of the tower, how sounds are cut, and its projector."""

    size: Literal["custom", "tiny", "base", "small", "medium", "large"] = "custom"
    """A released size, or ``custom``: ``hidden_size``, ``layers`` and ``heads`` say it."""
    hidden_size: int | None = attrs.field(default=None, validator=_positive)
    """Width of the transformer; taken from ``size`` where not given."""
    layers: int | None = attrs.field(default=None, validator=[_positive, _few_enough])
    """Transformer layers; taken from ``size`` where not given."""
    heads: int | None = attrs.field(default=None, validator=_positive)
    """Attention heads; taken from ``size`` where not given."""
    ffn_hidden_size: int | None = attrs.field(default=None, validator=_positive)
    """Width inside the feed-forward layers; by default four times ``hidden_size``."""
    mel_bins: int = attrs.field(default=80, validator=_positive)
    """Bins of the log-mel spectrogram: 80, or 128 as in Whisper's large-v3."""
    max_positions: int = attrs.field(default=1500, validator=_positive)
    """Rows of the table of positions, one for each 20 ms; as long as the weights' table."""

    window: float | None = attrs.field(default=None, validator=_positive)
    """Seconds of a window; a longer sound is cut into several, each encoded alone. By default as
    long as the table of positions (30 s for 1500)."""
    windows: Literal["short", "padded"] = "short"
    """``short``: a sound's last window is as long as what is left of it. ``padded``: it is filled
    up with silence, as Whisper was trained."""
    stack: int = attrs.field(default=1, validator=_positive)
    """Neighbouring positions that become one row, of so many times the width: the language model
    gets ``50 / stack`` rows a second."""
    dropout: float = attrs.field(default=0.0, validator=_share)
    """In training, on the embedded frames, after attention and feed-forward layers and on the
    attention weights."""

    projector: Literal["affine", "mlp"] = "affine"
    """From the tower to the language model: one linear layer, or two with a GELU."""
    projector_hidden_size: int | None = attrs.field(default=None, validator=_positive)
    """Width inside the MLP projector; by default that of the language model."""
    projector_bias: bool = True
    """The projector's linear layers have biases."""
    media: str = "audio"
    """The kind of the samples' media that it reads, so that two modules can read different ones."""
    placeholder: str | None = None
    """The symbol that stands for a sound's positions; by default the module's name in angle
    brackets, such as ``<audio>``, so that no two modules share one."""

    def __attrs_post_init__(self) -> None:
        self._check_architecture()
        self._check_window()
        if self.projector == "affine" and self.projector_hidden_size is not None:
            raise ValueError(
                f"whisper option projector_hidden_size={self.projector_hidden_size}: an affine "
                "projector has no hidden layer; leave it out or set projector=mlp"
            )

    def _check_architecture(self) -> None:
        if self.size == "custom":
            missing = [name for name in PRESETS["tiny"] if getattr(self, name) is None]
            if missing:
                raise ValueError(
                    f"whisper option size=custom: {', '.join(missing)} not given; set "
                    f"{'it' if len(missing) == 1 else 'them'}, or size to one of "
                    f"{', '.join(PRESETS)}"
                )
        if self.tower_width % self.tower_heads or self.tower_width % 2 or self.tower_width < 4:
            raise ValueError(
                f"whisper options hidden_size={self.tower_width}, heads={self.tower_heads}: the "
                "width must be even, 4 or more, and a multiple of the number of heads"
            )

    def _check_window(self) -> None:
        positions = self.window_positions
        if self.window is not None and abs(positions - self.window * POSITIONS_A_SECOND) > 1e-6:
            raise ValueError(
                f"whisper option window={self.window}: must be a whole number of positions of "
                f"{1 / POSITIONS_A_SECOND} s"
            )
        if positions > self.max_positions:
            raise ValueError(
                f"whisper options window={self.window}, max_positions={self.max_positions}: the "
                f"window takes {positions} positions; shorten it, or raise max_positions"
            )
        if positions % self.stack:
            raise ValueError(
                f"whisper option stack={self.stack}: must divide the {positions} positions of a "
                "window, so that no row reaches into two windows; change it, window or "
                "max_positions"
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
        """Features of a row that the tower puts out."""
        return self.tower_width * self.stack

    @property
    def window_positions(self) -> int:
        """Encoder positions of a whole window."""
        if self.window is None:
            return self.max_positions
        return round(self.window * POSITIONS_A_SECOND)

    def projector_width(self, language_width: int) -> int:
        """Width inside the MLP projector."""
        return self.projector_hidden_size or language_width

    def _architecture(self, field: str) -> int:
        given = getattr(self, field)
        return int(PRESETS[self.size][field] if given is None else given)


def options_of(module: ModuleConfig) -> Options:
    """The module's options, typed."""
    assert isinstance(module.options, Options), f"{module.name}: {module.options!r}"
    return module.options
