"""The options of a recipe's ``data`` section with ``plugin: spoken-digits``."""

from __future__ import annotations

from typing import Any

import attrs

ALLISON = "/usr/share/asterisk/sounds/en_US_f_Allison"
"""Where Debian's and Ubuntu's ``asterisk-core-sounds-en-wav`` puts its recordings."""


def _between(least: float, most: float, what: str) -> Any:
    def check(_options: Any, field: attrs.Attribute[float], value: float) -> None:
        if not least <= value <= most:
            raise ValueError(
                f"spoken-digits option {field.name}={value}: expected {what} from {least:g} to "
                f"{most:g}"
            )

    return check


def _weight(_shares: Any, field: attrs.Attribute[float], value: float) -> None:
    if not value >= 0:
        raise ValueError(f"spoken-digits option shares.{field.name}={value}: expected 0 or more")


@attrs.frozen(kw_only=True)
class Shares:
    """How many samples are of each kind, in proportion to each other."""

    both: float = attrs.field(default=0.5, validator=_weight)
    """A picture and a sound: ``three seven``."""
    picture: float = attrs.field(default=0.2, validator=_weight)
    """A picture alone: ``three -``."""
    sound: float = attrs.field(default=0.2, validator=_weight)
    """A sound alone: ``- seven``."""
    none: float = attrs.field(default=0.1, validator=_weight)
    """Text alone: ``- -``."""

    def __attrs_post_init__(self) -> None:
        if not sum(self.by_kind.values()):
            raise ValueError("spoken-digits option shares: all are 0; give one a share")

    @property
    def by_kind(self) -> dict[str, float]:
        return attrs.asdict(self)


@attrs.frozen(kw_only=True)
class Options:
    """What the samples have, what the pictures look like, and what is done to the sounds."""

    shares: Shares = attrs.field(factory=Shares)
    """Shares of the samples with both a picture and a sound, with one of them, with none."""
    shuffle_pictures: bool = False
    """Test of honesty: every caption gets the picture of another sample of its split."""
    shuffle_sounds: bool = False
    """Test of honesty: every caption gets the sound of another sample of its split."""

    size: int = 32
    """Side of the pictures, in pixels; like the next two, an option of ``digits``."""
    shift: float = 0.5
    """Training only: each picture is moved by up to this many original pixels."""
    held_out: float = 0.2
    """Share of the pictures in the validation split."""

    voices: tuple[str, ...] = (ALLISON,)
    """Directories of recordings, each with ``0.wav`` to ``9.wav`` in it or in its ``digits``."""
    held_out_voices: tuple[str, ...] = ()
    """Directories of the voices of the validation split; by default those of ``voices``."""
    seconds: float = attrs.field(default=1.0, validator=_between(0.1, 60, "seconds"))
    """Length of every sound; the recording is somewhere in it."""
    speed: float = attrs.field(default=0.1, validator=_between(0, 0.5, "a share"))
    """A recording is played slower or faster by up to this share."""
    gain: float = attrs.field(default=6.0, validator=_between(0, 40, "decibels"))
    """A recording is softer than full scale by up to so many decibels."""
    noise: float = attrs.field(default=0.01, validator=_between(0, 0.5, "a share of full scale"))
    """White noise is added, of up to this standard deviation."""

    def __attrs_post_init__(self) -> None:
        if not self.voices:
            raise ValueError("spoken-digits option voices=[]: name a directory of recordings")
        both = sorted({*self.voices} & {*self.held_out_voices})
        if both:
            raise ValueError(
                f"spoken-digits options voices, held_out_voices: {both[0]} is in both, so it would "
                "not be held out; leave it out of one"
            )


def options_of(value: Any) -> Options:
    """The options that a recipe gave, or the defaults if it gave none."""
    return Options() if value is None else value
