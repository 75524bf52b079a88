"""The front end: resampling, log-mel frames as transformers makes them, batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from mimo_plugin_whisper import plugin
from mimo_plugin_whisper.mel import log_mel, mel_filters, resampled
from whisper_tiny import tiny_module

from mimo_core import MediaItem, Sample, Text


def _sound(samples: int, seed: int = 0) -> np.ndarray:
    """Noise whose loudness changes, between -1 and 1."""
    generator = np.random.default_rng(seed)
    envelope = np.linspace(0.01, 1, samples) ** 2
    return (generator.uniform(-1, 1, samples) * envelope).astype(np.float32)


@pytest.mark.parametrize("bins", [80, 128])
def test_frames_are_those_of_transformers(bins: int) -> None:
    """Both compute in float32; a logarithm of small powers shows their last bits."""
    from transformers import WhisperFeatureExtractor

    extractor = WhisperFeatureExtractor(feature_size=bins, chunk_length=2)
    assert (mel_filters(bins).T - torch.from_numpy(extractor.mel_filters)).abs().max() < 1e-7
    waveform = np.concatenate([_sound(20_000), np.zeros(12_000, np.float32)])
    expected = extractor(waveform[:20_000], sampling_rate=16_000, return_tensors="pt")
    ours = log_mel(torch.from_numpy(waveform), bins)
    assert (ours - expected.input_features[0]).abs().max() < 1e-4


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_a_tone_of_any_rate_is_the_tone_at_16_khz(rate: int) -> None:
    """3 kHz is within every band; half a second, but for what the filter lacks at the ends."""

    def tone(at: int) -> torch.Tensor:
        return torch.sin(2 * torch.pi * 3_000 * torch.arange(at // 2) / at).float()

    ours = resampled(tone(rate), rate)
    assert len(ours) == -(-(rate // 2) * 16_000 // rate)
    middle = slice(200, 7_800)
    # The filter's ripple in the band that it passes, below -48 dB.
    assert (ours[middle] - tone(16_000)[middle]).abs().max() < 4e-3


def test_what_16_khz_cannot_hold_is_taken_out() -> None:
    high = torch.sin(2 * torch.pi * 11_000 * torch.arange(22_050) / 44_100)
    assert resampled(high, 44_100)[200:-200].abs().max() < 2e-3


class _Context:
    """A batch context that decodes without counting."""

    training = False
    first_stage = True

    def decode_media(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        return [medium.load(None) for sample in samples for medium in sample.media("audio")]


def _sample(*sounds: np.ndarray, rate: int = 16_000, samples: int | None = None) -> Sample:
    media = [
        MediaItem(modality="audio", shape=(samples or len(sound), rate), load=lambda _, s=sound: s)
        for sound in sounds
    ]
    return Sample(key="s", content=(*media, Text(text="x")))


def _batch(samples: list[Sample], **options: Any) -> Any:
    return plugin.provide_batch(tiny_module(**options), samples, _Context())


def test_long_sounds_are_cut_and_short_windows_filled_with_zeros() -> None:
    """0.24 s a window: the windows are those of the pieces alone."""
    long, short = _sound(10_000), _sound(700, seed=1)
    batch = _batch([_sample(long), _sample(), _sample(short)])
    assert batch["lengths"] == (12, 12, 8, 3)
    assert batch["cu_seqlens"].tolist() == [0, 12, 24, 32, 35]
    assert batch["mels"].shape == (4, 8, 24)
    pieces = [long[:3840], long[3840:7680], np.pad(long[7680:], (0, 240)), np.pad(short, (0, 260))]
    for mel, piece in zip(batch["mels"], pieces, strict=True):
        alone = log_mel(torch.from_numpy(piece), 8)
        assert torch.equal(mel[:, : alone.shape[1]], alone)
        assert not mel[:, alone.shape[1] :].any()


def test_padded_windows_hear_silence() -> None:
    batch = _batch([_sample(_sound(700))], windows="padded")
    assert batch["lengths"] == (12,)
    expected = log_mel(torch.from_numpy(np.pad(_sound(700), (0, 3140))), 8)
    assert torch.equal(batch["mels"][0], expected)


def test_later_stages_count_as_the_first_without_decoding() -> None:
    samples = [_sample(_sound(5_000), rate=8_000), _sample(_sound(300))]
    later = type("Later", (_Context,), {"first_stage": False, "load": None})()
    module = tiny_module(stack=2)
    told = plugin.provide_batch(module, samples, later)
    whole = plugin.provide_batch(module, samples, _Context())
    assert told.keys() == {"lengths", "cu_seqlens"}
    assert told["lengths"] == whole["lengths"]
    assert torch.equal(told["cu_seqlens"], whole["cu_seqlens"])


def test_samples_without_a_sound_have_no_batch() -> None:
    assert _batch([_sample(), _sample()]) is None


@pytest.mark.parametrize(
    ("sound", "samples"),
    [(_sound(100).astype(np.float64), None), (_sound(100)[None], None), (_sound(100), 99)],
    ids=["float64", "two axes", "other length"],
)
def test_a_sound_that_is_not_as_told_is_refused(sound: np.ndarray, samples: int | None) -> None:
    message = r"a sound of sample s is .*: expected float32 \[\d+\], mono"
    with pytest.raises(ValueError, match=message):
        _batch([_sample(sound, samples=samples)])
