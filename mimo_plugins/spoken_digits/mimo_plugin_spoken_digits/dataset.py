"""One split: each digit of ``mimo-plugin-digits`` beside a spoken one, or one of them, or none."""

from __future__ import annotations

import hashlib
from functools import partial
from random import Random

import attrs
import mimo_plugin_digits as digits
import numpy as np

from mimo_core import DatasetConfig, MediaItem, MimoError, Sample, Split, Text
from mimo_plugin_spoken_digits.options import Options, options_of
from mimo_plugin_spoken_digits.sounds import length, sound
from mimo_plugin_spoken_digits.voices import DIGITS, recordings

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NOTHING = "-"
"""Stands in a caption where there is nothing to be seen or heard."""


@attrs.frozen(kw_only=True)
class Plan:
    """What a sample has, apart from its picture: a function of split and index."""

    kind: str
    """``both``, ``picture``, ``sound`` or ``none``."""
    digit: int
    """The one spoken."""
    voice: str
    own: int
    """Seed of its own rendering."""


class SpokenDigits:
    """As many samples as the split of ``digits`` has pictures, and the same pictures."""

    metric = "caption_accuracy"

    def __init__(self, data: DatasetConfig, split: Split) -> None:
        self._options = options = options_of(data.options)
        self._split = split
        self._digits = digits.Digits(_pictures(data), split)
        self._voices = options.voices
        if split == "validation" and options.held_out_voices:
            self._voices = options.held_out_voices
        _check_lengths(self._voices, options)
        self._heard = list(range(len(self)))
        if options.shuffle_sounds:
            self._heard = derangement(len(self), data.seed)
        self.digest = self._digest()

    @property
    def note(self) -> str:
        """Told when a run starts: what held out means."""
        unseen = self._options.held_out_voices
        sounds = (
            f"sounds of {len(unseen)} voice(s) that training does not hear"
            if unseen
            else "new renderings of the recordings that training hears"
        )
        return f"spoken-digits: held out are pictures that training does not see, and {sounds}"

    def __len__(self) -> int:
        return len(self._digits)

    def __getitem__(self, index: int) -> Sample:
        drawn = self._digits[index]
        told = self._plan(index)
        picture, word = drawn.content
        assert isinstance(word, Text)
        sees, hears = told.kind in ("both", "picture"), told.kind in ("both", "sound")
        seen = word.text if sees else NOTHING
        heard = WORDS[told.digit] if hears else NOTHING
        return Sample(
            key=f"spoken-digits/{self._split}/{told.kind}/{index}",
            content=(
                *([picture] if sees else []),
                *([self._sound(self._plan(self._heard[index]))] if hears else []),
                Text(text=f"{seen} {heard}", is_target=True),
            ),
        )

    def _plan(self, index: int) -> Plan:
        draw = Random(f"spoken-digits/{self._split}/{index}")
        shares = self._options.shares.by_kind
        return Plan(
            kind=draw.choices(list(shares), list(shares.values()))[0],
            digit=draw.randrange(DIGITS),
            voice=draw.choice(self._voices),
            own=draw.getrandbits(64),
        )

    def _sound(self, told: Plan) -> MediaItem:
        rate = recordings(told.voice)[told.digit].rate
        load = partial(sound, told.voice, told.digit, self._options, told.own)
        return MediaItem(
            modality="audio", shape=(length(self._options.seconds, rate), rate), load=load
        )

    def _digest(self) -> str:
        told = attrs.evolve(self._options, voices=("",), held_out_voices=())
        hashed = hashlib.sha256(f"{self._split} {told} {self._digits.digest}".encode())
        hashed.update(np.array(self._heard, dtype=np.int64).tobytes())
        for voice in self._voices:
            for recording in recordings(voice):
                hashed.update(f"{recording.rate}".encode())
                hashed.update(recording.waveform.tobytes())
        return hashed.hexdigest()


def _pictures(data: DatasetConfig) -> DatasetConfig:
    """The ``data`` section of ``digits`` that the pictures are taken from."""
    given = options_of(data.options)
    chosen = digits.Options(
        size=given.size,
        shift=given.shift,
        held_out=given.held_out,
        shuffle_pictures=given.shuffle_pictures,
    )
    return DatasetConfig(plugin="digits", options=chosen, seed=data.seed)


def _check_lengths(voices: tuple[str, ...], options: Options) -> None:
    """Raises MimoError where a recording, played slowly, is longer than a sound."""
    for voice in voices:
        for digit, recording in enumerate(recordings(voice)):
            longest = len(recording.waveform) / recording.rate / (1 - options.speed)
            if longest > length(options.seconds, recording.rate) / recording.rate:
                raise MimoError(
                    f"spoken-digits: {digit} of {voice} takes {longest:.2f} s at the slowest, more "
                    f"than seconds={options.seconds}; raise data.options.seconds",
                    code="spoken-digits.long-recording",
                    voice=voice,
                    digit=digit,
                    duration_seconds=longest,
                    seconds=options.seconds,
                )


def derangement(count: int, seed: int) -> list[int]:
    """A permutation of ``range(count)`` in one cycle: for ``count`` > 1 nothing keeps its place."""
    cycle = np.random.default_rng([seed, count]).permutation(count)
    order = np.empty(count, dtype=np.int64)
    order[cycle] = np.roll(cycle, 1)
    return order.tolist()
