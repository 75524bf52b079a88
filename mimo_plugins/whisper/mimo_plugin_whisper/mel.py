"""Whisper's front end: a waveform at any rate to log-mel frames."""

from __future__ import annotations

import math
from functools import lru_cache
from math import gcd

import torch
import torch.nn.functional as F
from torch import Tensor

from mimo_plugin_whisper.options import HOP, N_FFT, SAMPLE_RATE
from mimo_plugin_whisper.windows import resampled_length

_HIGHEST = 8000.0
"""Hertz at which the last mel filter ends."""
_CROSSINGS = 16
"""Zero crossings of the resampling filter on each side."""
_PASSED = 0.95
"""Share of the narrower band that resampling leaves as it is; the filter's slope takes the rest."""


def log_mel(waveform: Tensor, bins: int) -> Tensor:
    """Log-mel frames as Whisper reads them: within 8 (in log10) of the loudest, then scaled.

    Args:
        waveform: float32 ``[samples]`` at 16 kHz, more than 200 and a multiple of 160 samples.
        bins: Mel bins.

    Returns:
        float32 ``[bins, samples / 160]``.
    """
    window = torch.hann_window(N_FFT)
    spectrum = torch.stft(waveform, N_FFT, HOP, window=window, return_complex=True)
    # A frame more than hops: Whisper drops the last.
    power = spectrum[:, :-1].abs().square()
    logarithm = (mel_filters(bins) @ power).clamp(min=1e-10).log10()
    return (logarithm.clamp(min=float(logarithm.max()) - 8.0) + 4.0) / 4.0


@lru_cache(maxsize=4)
def mel_filters(bins: int) -> Tensor:
    """Triangular filters ``[bins, 201]`` of equal area, on Slaney's mel scale from 0 to 8 kHz."""
    frequencies = torch.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1, dtype=torch.float64)
    edges = _hertz(torch.linspace(0, _mel(_HIGHEST), bins + 2, dtype=torch.float64))[:, None]
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    rising = (frequencies - lower) / (centre - lower)
    falling = (upper - frequencies) / (upper - centre)
    area = 2 / (upper - lower)
    return (torch.minimum(rising, falling).clamp(min=0) * area).float()


_LINEAR_UP_TO = 15.0
"""Mel (1 kHz) below which Slaney's scale is linear: 200/3 Hz each; above, 27 to a factor of 6.4."""


def _mel(hertz: float) -> float:
    assert hertz >= 1000
    return _LINEAR_UP_TO + 27 * math.log(hertz / 1000) / math.log(6.4)


def _hertz(mel: Tensor) -> Tensor:
    curved = 1000 * torch.exp((mel - _LINEAR_UP_TO) * (math.log(6.4) / 27))
    return torch.where(mel < _LINEAR_UP_TO, mel * 200 / 3, curved)


def resampled(waveform: Tensor, rate: int) -> Tensor:
    """The waveform at 16 kHz: float32 ``[n]`` to ``[ceil(n * 16000 / rate)]``."""
    if rate == SAMPLE_RATE:
        return waveform
    common = gcd(rate, SAMPLE_RATE)
    down, up = rate // common, SAMPLE_RATE // common
    filters, reach = _resampling(down, up)
    padded = F.pad(waveform, (reach, reach + down))[None, None]
    phases = F.conv1d(padded, filters[:, None], stride=down)[0]
    return phases.T.flatten()[: resampled_length(len(waveform), rate)]


@lru_cache(maxsize=8)
def _resampling(down: int, up: int) -> tuple[Tensor, int]:
    """A windowed sinc for each of ``up`` output samples of every ``down`` input samples.

    Returns:
        float32 ``[up, down + 2 * reach]``, and the reach: input samples on each side.
    """
    # Of the input's samples; both bands end at half of the lower rate.
    cutoff = min(1.0, up / down) * _PASSED
    reach = math.ceil(_CROSSINGS / cutoff)
    taps = torch.arange(-reach, down + reach, dtype=torch.float64)
    outputs = torch.arange(up, dtype=torch.float64)[:, None] * down / up
    distance = (taps - outputs) * cutoff
    window = torch.cos(math.pi / 2 * (distance / _CROSSINGS).clamp(-1, 1)).square()
    filters = torch.sinc(distance) * window * cutoff
    # A constant stays as it is.
    return (filters / filters.sum(1, keepdim=True)).float(), reach
