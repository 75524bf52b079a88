"""Recordings of the ten digits, one directory for each voice."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from mimo_core import MimoError
from mimo_plugin_spoken_digits.options import ALLISON

if TYPE_CHECKING:
    import numpy as np

DIGITS = 10
QUIET = 0.03
"""Share of a recording's loudest sample below which its ends are cut off as silence."""


@attrs.frozen(kw_only=True)
class Recording:
    """A digit as a voice says it."""

    waveform: np.ndarray
    """float32 ``[samples]`` between -1 and 1, its loudest sample 1, without silence around it."""
    rate: int
    """Samples a second."""


def files(voice: str) -> list[Path]:
    """The ten files of a voice, in the order of the digits.

    Raises:
        MimoError: one is not there.
    """
    given = Path(voice)
    folder = given / "digits" if (given / "digits").is_dir() else given
    paths = [folder / f"{digit}.wav" for digit in range(DIGITS)]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        way_out = "name directories that have 0.wav to 9.wav, or digits/0.wav to digits/9.wav"
        if voice == ALLISON:
            way_out = (
                "on Debian or Ubuntu `apt-get install asterisk-core-sounds-en-wav` puts them "
                f"there; or set data.options.voices: {way_out}"
            )
        raise MimoError(
            f"spoken-digits: no recording {missing[0]}; {way_out}",
            code="spoken-digits.no-recording",
            file=str(missing[0]),
        )
    return paths


def rates(voice: str) -> Iterator[int]:
    """Samples a second of each recording of a voice; only headers are read."""
    for path in files(voice):
        with _opened(path) as file:
            yield file.getframerate()


@lru_cache(maxsize=256)
def recordings(voice: str) -> tuple[Recording, ...]:
    """A voice's recordings, in the order of the digits.

    Raises:
        MimoError: one is missing, silent, or no WAV file of 16-bit PCM.
    """
    return tuple(_read(path) for path in files(voice))


def _read(path: Path) -> Recording:
    import numpy as np

    with _opened(path) as file:
        frames = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
        mono = frames.reshape(-1, file.getnchannels()).mean(1)
        rate = file.getframerate()
    loudness = np.abs(mono)
    loudest = loudness.max(initial=0)
    if not loudest:
        raise MimoError(
            f"spoken-digits: recording {path} is silent; put another in its place",
            code="spoken-digits.silent-recording",
            file=str(path),
        )
    heard = np.flatnonzero(loudness > QUIET * loudest)
    spoken = mono[heard[0] : heard[-1] + 1] / loudest
    return Recording(waveform=spoken.astype(np.float32), rate=rate)


@contextmanager
def _opened(path: Path) -> Iterator[wave.Wave_read]:
    """The file; raises MimoError where it is no WAV file of 16-bit PCM."""
    try:
        with wave.open(str(path)) as file:
            if file.getsampwidth() != 2:
                raise wave.Error(f"it has {8 * file.getsampwidth()} bits a sample")
            yield file
    except (wave.Error, EOFError) as error:
        raise MimoError(
            f"spoken-digits: recording {path} is no WAV file of 16-bit PCM "
            f"({str(error) or 'it ends too early'}); convert it, for instance with "
            "`ffmpeg -i IN -c:a pcm_s16le OUT.wav`",
            code="spoken-digits.unreadable-recording",
            file=str(path),
        ) from error
