"""Voices that the tests make: a tone for each digit, higher from one to the next."""

from __future__ import annotations

import math
import wave
from array import array
from pathlib import Path

STEP = 1.3
"""From the frequency of a digit to that of the next."""


def make_voice(folder: Path, *, rate: int = 8_000, lowest: float = 300.0) -> str:
    """Ten recordings of a fifth of a second in ``folder``, with silence around; gives its name."""
    folder.mkdir(parents=True, exist_ok=True)
    for digit in range(10):
        frequency = lowest * STEP**digit
        silence = array("h", [0] * (rate // 20))
        tone = array(
            "h",
            [
                round(20_000 * math.cos(2 * math.pi * frequency * at / rate))
                for at in range(rate // 5)
            ],
        )
        write(folder / f"{digit}.wav", (silence + tone + silence).tobytes(), rate=rate)
    return str(folder)


def write(path: Path, frames: bytes, *, rate: int = 8_000, width: int = 2) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(frames)
