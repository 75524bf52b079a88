"""Each key of a feature extractor left out and changed: transformers' frames, or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mimo_plugin_whisper.extractor import DEFAULTS, WITHOUT_EFFECT
from mimo_plugin_whisper.mel import log_mel
from mimo_plugin_whisper.plugin import param_mappings
from transformers import WhisperFeatureExtractor
from whisper_tiny import tiny_module

from mimo_core import MimoError

FILE = "preprocessor_config.json"
SECONDS, BINS = 2, 80
CHANGES: dict[str, list[Any]] = {
    "feature_size": [128, 81, None, "80", True],
    "sampling_rate": [8_000, 22_050, None],
    "hop_length": [80, 320, None],
    "n_fft": [512, 1024, None],
    "chunk_length": [1, 30, None],
    "padding_value": [0.5, -1, None],
    "padding_side": ["left", None],
    "dither": [0.01, None],
    "n_samples": [7, None],
    "nb_max_frames": [7, None],
    "return_attention_mask": [True, None],
    "do_normalize": [True, False, None],
    "mel_filters": [[[0.0]]],
    "feature_extractor_type": ["SeamlessM4TFeatureExtractor", "ParakeetFeatureExtractor"],
    "stack": [2],
}
"""Values of each key of transformers' class, of old files, and of another class."""


def module() -> Any:
    return tiny_module(mel_bins=BINS, max_positions=50 * SECONDS, windows="padded")


def base() -> dict[str, Any]:
    return WhisperFeatureExtractor(chunk_length=SECONDS, feature_size=BINS).to_dict()


def variants() -> list[tuple[str, dict[str, Any]]]:
    files = [("nothing", base())]
    for key in base():
        files.append((key, {name: value for name, value in base().items() if name != key}))
    return files + [
        (key, {**base(), key: value}) for key, values in CHANGES.items() for value in values
    ]


def test_each_key_left_out_or_changed_gives_the_same_frames_or_is_refused_by_name(
    tmp_path: Path,
) -> None:
    generator = np.random.default_rng(0)
    sound = (generator.uniform(-1, 1, 20_000) * np.linspace(0.01, 1, 20_000)).astype(np.float32)
    padded = np.pad(sound, (0, SECONDS * 16_000 - len(sound)))
    ours = log_mel(torch.from_numpy(padded), BINS)
    wrong, refused = [], set()
    for key, said in variants():
        (tmp_path / FILE).write_text(json.dumps(said))
        try:
            assert param_mappings(module()).locate(str(tmp_path)) == tmp_path
        except MimoError as error:
            refused.add(key)
            if key not in str(error):
                wrong.append(f"{key}: refused without its name: {error}")
            continue
        theirs = WhisperFeatureExtractor.from_pretrained(tmp_path)
        due = theirs(sound, sampling_rate=16_000, return_tensors="pt").input_features[0]
        # Both compute in float32; a logarithm of small powers shows their last bits.
        if due.shape != ours.shape or (due - ours).abs().max() > 1e-4:
            wrong.append(f"{key}: {said.get(key)!r} gives other frames")
    assert wrong == []
    assert refused >= {*DEFAULTS, "stack", "feature_extractor_type"}
    assert not refused & {"nothing", "n_samples", "nb_max_frames", "return_attention_mask"}


def test_every_key_of_the_class_is_known_with_its_default() -> None:
    theirs = WhisperFeatureExtractor().to_dict()
    assert set(theirs) - WITHOUT_EFFECT == set(DEFAULTS)
    assert {key: theirs[key] for key in DEFAULTS} == DEFAULTS


def test_the_extractor_of_a_whole_processor_comes_first(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps(base()))
    other = {"feature_extractor": {**base(), "dither": 0.5}, "processor_class": "P"}
    (tmp_path / "processor_config.json").write_text(json.dumps(other))
    with pytest.raises(MimoError, match=r"processor_config\.json, feature_extractor: dither is"):
        param_mappings(module()).locate(str(tmp_path))


def test_short_windows_have_no_chunk_length(tmp_path: Path) -> None:
    """A window is as long as its sound, so nothing is filled up to a chunk."""
    (tmp_path / FILE).write_text(json.dumps({**base(), "chunk_length": 30}))
    short = tiny_module(mel_bins=BINS, max_positions=50 * SECONDS)
    assert param_mappings(short).locate(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    "content",
    [None, {"image_processor_type": "CLIPImageProcessor", "size": 224}],
    ids=["no file", "of images"],
)
def test_a_directory_without_an_extractor_is_taken(tmp_path: Path, content: Any) -> None:
    if content is not None:
        (tmp_path / FILE).write_text(json.dumps(content))
    assert param_mappings(module()).locate(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(MimoError, match=FILE):
        param_mappings(module()).locate(str(tmp_path))
