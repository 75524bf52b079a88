"""A recording as it is heard once: at some speed and loudness, somewhere in noise."""

from __future__ import annotations

import numpy as np

from mimo_plugin_spoken_digits.options import Options
from mimo_plugin_spoken_digits.voices import recordings


def length(seconds: float, rate: int) -> int:
    """Samples of a sound: never more than ``seconds`` at any other rate."""
    return int(seconds * rate)


def sound(
    voice: str, digit: int, options: Options, own: int, generator: np.random.Generator | None
) -> np.ndarray:
    """One rendering of a recording: float32 ``[length(seconds, rate)]`` between -1 and 1.

    Args:
        voice: Directory of the recording.
        digit: What is said.
        options: Say how far renderings differ.
        own: Seed of the sample's own rendering, which no training sample shares.
        generator: Draws speed, loudness, place and noise; ``None`` takes those of the sample.
    """
    draw = np.random.default_rng(own) if generator is None else generator
    recording = recordings(voice)[digit]
    speed = draw.uniform(1 - options.speed, 1 + options.speed)
    loudness = 10 ** (-draw.uniform(0, options.gain) / 20)
    times = np.arange(int(len(recording.waveform) / speed)) * speed
    spoken = np.interp(times, np.arange(len(recording.waveform)), recording.waveform)
    whole = length(options.seconds, recording.rate)
    heard = draw.normal(size=whole) * draw.uniform(0, options.noise)
    begin = draw.integers(0, whole - len(spoken), endpoint=True)
    heard[begin : begin + len(spoken)] += loudness * spoken
    return heard.clip(-1, 1).astype(np.float32)
