"""The dataset: kinds of samples, captions, renderings, splits, the tests of honesty."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mimo_plugin_digits.plugin import build_dataset as build_digits
from mimo_plugin_spoken_digits import plugin
from mimo_plugin_spoken_digits.dataset import WORDS
from mimo_plugin_spoken_digits.options import Options, Shares
from spoken_tones import STEP, make_voice, write

from mimo_core import DatasetConfig, MediaItem, MimoError, Sample, Text
from mimo_core.testing import raises_code


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_voice(tmp_path_factory.mktemp("voices") / "one" / "digits").removesuffix("/digits")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_voice(tmp_path_factory.mktemp("voices") / "other", rate=11_025, lowest=310)


def _dataset(voice: str, split: Any = "train", seed: int = 1, **options: Any) -> Any:
    given = Options(**({"voices": (voice,)} | options))
    return plugin.build_dataset(
        DatasetConfig(plugin="spoken-digits", options=given, seed=seed), split
    )


def _text(sample: Sample) -> str:
    *_, text = sample.content
    assert isinstance(text, Text) and text.is_target
    return text.text


def _media(sample: Sample, kind: str) -> MediaItem | None:
    return next(sample.media(kind), None)


def _heard(sample: Sample, lowest: float = 300) -> str:
    """The digit whose tone is the loudest of the sample's sound."""
    sound = _media(sample, "audio")
    assert sound is not None
    waveform, rate = sound.load(None), sound.shape[1]
    loudest = np.abs(np.fft.rfft(waveform)).argmax() * rate / len(waveform)
    return WORDS[round(np.log(loudest / lowest) / np.log(STEP))]


def test_listing_and_previewing_are_light(voice: str) -> None:
    code = (
        "import sys; from mimo_core import DatasetConfig;"
        "from mimo_plugin_spoken_digits import plugin;"
        f"given = plugin.options_class()(voices=({voice!r},));"
        "plugin.preview_samples(DatasetConfig(plugin='spoken-digits', options=given));"
        "print(sorted({'torch', 'numpy', 'sklearn'} & set(sys.modules)))"
    )
    environ = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_caption_tells_what_is_seen_and_what_is_heard(voice: str) -> None:
    """Without noise, and slower by no more than a third of the step between two tones."""
    samples = [*_dataset(voice, "validation", noise=0.0, speed=0.1)]
    pictured = [*build_digits(DatasetConfig(plugin="digits"), "validation")]
    kinds = Counter()
    for sample, drawn in zip(samples, pictured, strict=True):
        kind = sample.key.split("/")[2]
        picture, (due, word) = _media(sample, "image"), drawn.content
        assert (picture is not None) == (kind in ("both", "picture"))
        assert (_media(sample, "audio") is not None) == (kind in ("both", "sound"))
        if picture is not None:
            assert isinstance(due, MediaItem) and isinstance(word, Text)
            np.testing.assert_array_equal(picture.load(None), due.load(None))
        seen = word.text if picture is not None else "-"
        heard = _heard(sample) if kind in ("both", "sound") else "-"
        assert _text(sample) == f"{seen} {heard}"
        kinds[kind] += 1
    shares = {kind: count / len(samples) for kind, count in kinds.items()}
    assert shares == pytest.approx(Shares().by_kind, abs=0.06)


def test_the_digit_seen_tells_nothing_of_the_digit_heard(voice: str) -> None:
    """Every pair comes, and no sound more than twice as often as another beside any picture."""
    pairs = Counter(map(_text, _dataset(voice, shares=Shares(picture=0, sound=0, none=0))))
    assert len(pairs) == 100
    for seen in WORDS:
        beside = sorted(pairs[f"{seen} {heard}"] for heard in WORDS)
        assert beside[5] > sum(beside) / 20


def test_shares_are_in_proportion(voice: str) -> None:
    only = _dataset(voice, shares=Shares(both=0, picture=0, sound=3, none=0))
    assert {sample.key.split("/")[2] for sample in only} == {"sound"}


@pytest.mark.parametrize("exchanged", ["pictures", "sounds"])
def test_shuffled_media_are_those_of_other_samples(voice: str, exchanged: str) -> None:
    """Captions stay, and so do the media of the other kind."""

    def told(**options: Any) -> list[tuple[str, bytes, bytes]]:
        both = Shares(picture=0, sound=0, none=0)
        return [
            (_text(sample), *(next(sample.media(kind)).load(None).tobytes() for kind in order))
            for sample in _dataset(voice, "validation", shares=both, **options)
        ]

    order = ("image", "audio") if exchanged == "pictures" else ("audio", "image")
    own, shuffled = told(), told(**{f"shuffle_{exchanged}": True})
    texts, mine, others = zip(*own, strict=True)
    assert [(text, other) for text, _, other in shuffled] == [*zip(texts, others, strict=True)]
    given = [medium for _, medium, _ in shuffled]
    assert sorted(given) == sorted(mine)
    assert sum(a == b for a, b in zip(given, mine, strict=True)) <= 1  # equal drawings


def test_held_out_sounds_are_renderings_of_their_own(voice: str) -> None:
    """Each is the same whenever it is asked for, and no two are the same in either split."""
    renderings = []
    for split in ("train", "validation"):
        for sample in _dataset(voice, split):
            sound = _media(sample, "audio")
            if sound is not None:
                renderings.append(sound.load(None).tobytes())
    assert len({*renderings}) == len(renderings) > 1000
    again = next(sound for s in _dataset(voice) if (sound := _media(s, "audio")) is not None)
    assert again.load(None).tobytes() == renderings[0]


def test_a_rendering_is_within_its_bounds(voice: str) -> None:
    dataset = _dataset(voice, seconds=0.5, speed=0.3, gain=20.0, noise=0.05)
    sound = next(sound for s in dataset if (sound := _media(s, "audio")) is not None)
    assert sound.shape == (4000, 8000)
    drawn = [sound.load(np.random.default_rng(seed)) for seed in range(40)]
    np.testing.assert_array_equal(sound.load(np.random.default_rng(3)), drawn[3])
    assert {waveform.shape for waveform in drawn} == {(4000,)}
    assert {waveform.dtype for waveform in drawn} == {np.dtype(np.float32)}
    peaks = [np.abs(waveform).max() for waveform in drawn]
    assert 0.7 < max(peaks) <= 1
    assert min(peaks) < 0.25
    assert len({waveform.tobytes() for waveform in drawn}) == 40
    loud = next(sound for s in _dataset(voice, gain=0.0, noise=0.2) for sound in s.media("audio"))
    assert np.abs(loud.load(None)).max() == 1


def test_samples_travel_between_processes(voice: str) -> None:
    sound = next(sound for s in _dataset(voice) if (sound := _media(s, "audio")) is not None)
    travelled = pickle.loads(pickle.dumps(sound))
    np.testing.assert_array_equal(travelled.load(None), sound.load(None))


def test_held_out_voices_are_heard_in_validation_alone(voice: str, other: str) -> None:
    def rates(split: str, **options: Any) -> set[int]:
        dataset = _dataset(voice, split, **options)
        return {sound.shape[1] for s in dataset if (sound := _media(s, "audio")) is not None}

    apart = {"held_out_voices": (other,)}
    assert rates("train", **apart) == {8_000}
    assert rates("validation", **apart) == {11_025}
    together = {"voices": (voice, other)}
    assert rates("train", **together) == rates("validation", **together) == {8_000, 11_025}
    assert "voice(s) that training does not hear" in _dataset(voice, **apart).note
    assert "new renderings of the recordings that training hears" in _dataset(voice).note


def test_the_digest_is_of_recordings_and_options_not_of_places(
    voice: str, other: str, tmp_path: Path
) -> None:
    moved = make_voice(tmp_path / "moved")
    assert _dataset(moved).digest == _dataset(voice).digest
    changed = [_dataset(other), _dataset(voice, speed=0.2), _dataset(voice, "validation")]
    assert len({dataset.digest for dataset in (_dataset(voice), *changed)}) == 4


def test_the_preview_shows_what_the_dataset_holds(voice: str, other: str) -> None:
    def told(sample: Sample) -> tuple[Any, ...]:
        return tuple(
            (part.modality, part.shape) if isinstance(part, MediaItem) else type(part)
            for part in sample.content
        )

    given = Options(voices=(voice, other), seconds=0.9, size=16)
    data = DatasetConfig(plugin="spoken-digits", options=given)
    shown = plugin.preview_samples(data)
    held = [*plugin.build_dataset(data, "train")]
    assert {told(sample) for sample in shown} == {told(sample) for sample in held}
    assert max(len(_text(s)) for s in shown) == max(len(_text(s)) for s in held)


def test_asterisks_recordings_that_are_not_there_are_told_with_their_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("mimo_plugin_spoken_digits.voices.ALLISON", str(tmp_path))
    with pytest.raises(MimoError, match="`apt-get install asterisk-core-sounds-en-wav`"):
        plugin.preview_samples(
            DatasetConfig(plugin="spoken-digits", options=Options(voices=(str(tmp_path),)))
        )


@pytest.mark.parametrize(
    ("frames", "width", "options", "message"),
    [
        (None, 2, {}, "no recording .*7.wav; name directories that have 0.wav to 9.wav"),
        (b"", 2, {}, "7.wav is silent"),
        (b"\1\2" * 50, 1, {}, r"no WAV file of 16-bit PCM \(it has 8 bits a sample\); convert it"),
        (b"\1\2" * 9000, 2, {}, "7 of .* takes 1.25 s at the slowest, more than seconds=1.0"),
        (b"\1\2" * 9000, 2, {"seconds": 1.4}, None),
    ],
    ids=["missing", "silent", "8 bits", "too long", "long enough"],
)
def test_recordings_that_cannot_be_used(
    frames: bytes | None, width: int, options: dict[str, Any], message: str | None, tmp_path: Path
) -> None:
    folder = make_voice(tmp_path / "voice")
    seven = tmp_path / "voice" / "7.wav"
    seven.unlink()
    if frames is not None:
        write(seven, frames, width=width)
    if message is None:
        _dataset(folder, **options)
        return
    with pytest.raises(MimoError, match=message):
        _dataset(folder, **options)


def test_a_file_that_is_no_wav_file_is_told(tmp_path: Path) -> None:
    folder = make_voice(tmp_path / "voice")
    (tmp_path / "voice" / "3.wav").write_bytes(b"ID3")
    with raises_code("spoken-digits.unreadable-recording"):
        plugin.preview_samples(
            DatasetConfig(plugin="spoken-digits", options=Options(voices=(folder,)))
        )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"voices": ()}, r"voices=\[\]: name a directory"),
        ({"voices": ("a",), "held_out_voices": ("b", "a")}, "a is in both"),
        ({"speed": 0.6}, "speed=0.6: expected a share from 0 to 0.5"),
        ({"seconds": 0.0}, "seconds=0.0: expected seconds from 0.1"),
    ],
)
def test_options_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Options(**given)


def test_shares_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"shares.none=-1: expected 0 or more"):
        Shares(none=-1)
    with pytest.raises(ValueError, match="all are 0"):
        Shares(both=0, picture=0, sound=0, none=0)
