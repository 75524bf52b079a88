"""Sounds as the tower eats them: log-mel frames of their windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from mimo_core import MimoError, Sample
from mimo_plugin_whisper.mel import log_mel, resampled
from mimo_plugin_whisper.options import POSITION, Options
from mimo_plugin_whisper.windows import window_positions


def sound_batch(
    samples: Sequence[Sample], sounds: Sequence[np.ndarray], options: Options
) -> dict[str, Any]:
    """The windows of all sounds, each with its own loudest frame and zeros around, as if alone.

    Args:
        samples: Their metadata say how the sounds are cut.
        sounds: The decoded sounds of all samples, each float32 ``[samples]``.

    Returns:
        ``mels``: float32 ``[B, mel bins, 2 * longest]``, window after window, zeros behind shorter
        ones; and what :func:`window_sizes` tells of them.

    Raises:
        MimoError: a sound is not float32, or not of the length that its metadata says.
    """
    mels: list[torch.Tensor] = []
    positions: list[int] = []
    for (key, shape, windows), sound in zip(_cut(samples, options), sounds, strict=True):
        if sound.dtype != np.float32 or sound.shape != shape[:1]:
            raise MimoError(
                f"a sound of sample {key} is {sound.dtype} {list(sound.shape)}: expected float32 "
                f"[{shape[0]}], mono between -1 and 1, of the length in its metadata; mend the "
                "dataset's Media.load or Media.shape",
                code="sample.wrong-medium",
                sample=key,
                dtype=str(sound.dtype),
                shape=sound.shape,
                expected=shape[:1],
            )
        waveform = resampled(torch.from_numpy(np.ascontiguousarray(sound)), shape[1])
        padded = F.pad(waveform, (0, sum(windows) * POSITION - len(waveform)))
        pieces = padded.split([length * POSITION for length in windows])
        mels += [log_mel(piece, options.mel_bins) for piece in pieces]
        positions += windows
    together = torch.zeros(len(mels), options.mel_bins, 2 * max(positions))
    for row, mel in zip(together, mels, strict=True):
        row[:, : mel.shape[1]] = mel
    return {"mels": together, **_sizes(positions)}


def window_sizes(samples: Sequence[Sample], options: Options) -> dict[str, Any]:
    """What every pipeline stage must know of the windows.

    Returns:
        ``lengths``: positions of each of ``B`` windows. ``cu_seqlens``: int32 ``[B + 1]``, where
        each begins in all of them, and the end.
    """
    return _sizes([length for _, _, windows in _cut(samples, options) for length in windows])


def _sizes(positions: Sequence[int]) -> dict[str, Any]:
    ends = np.cumsum([0, *positions], dtype=np.int32)
    return {"lengths": tuple(positions), "cu_seqlens": torch.from_numpy(ends)}


def _cut(
    samples: Sequence[Sample], options: Options
) -> Iterator[tuple[str, tuple[int, ...], list[int]]]:
    """Sample key, metadata shape and windows of every sound."""
    for sample in samples:
        for medium in sample.media(options.media):
            yield sample.key, medium.shape, window_positions(medium.shape, options)
