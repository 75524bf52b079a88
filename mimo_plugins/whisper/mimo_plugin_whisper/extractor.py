"""A directory's feature extractor, compared with the frames that this plugin computes.

Facts of transformers 5; a test compares them with its class, so that a key it adds is seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mimo_core import MimoError
from mimo_plugin_whisper.options import HOP, N_FFT, POSITIONS_A_SECOND, SAMPLE_RATE, Options

KIND = "WhisperFeatureExtractor"
DEFAULTS: Mapping[str, Any] = {
    "feature_size": 80,
    "sampling_rate": 16_000,
    "hop_length": 160,
    "n_fft": 400,
    "chunk_length": 30,
    "padding_value": 0.0,
    "padding_side": "right",
    "dither": 0.0,
}
"""Keys that decide what the frames are, with the values of a file that lacks them."""
WITHOUT_EFFECT = frozenset(
    {
        # Computed anew from the keys above.
        *("n_samples", "nb_max_frames", "mel_filters"),
        # Arguments of a call, not read from a file, and what is returned besides frames.
        *("do_normalize", "return_attention_mask", "return_tensors", "device"),
        # Names.
        *("feature_extractor_type", "processor_class", "auto_map", "_name_or_path"),
        "transformers_version",
    }
)
"""Keys that change no frame."""
_FILES = (("processor_config.json", "feature_extractor"), ("preprocessor_config.json", None))
"""Files in the order in which transformers looks for an extractor, and the key that has it."""
_MOST_BYTES = 64 << 20


def checked_directory(options: Options, source: str) -> Path:
    """The directory of weights, if its frames are those of the options.

    Args:
        options: Of the module.
        source: What the recipe has under ``modules.NAME.pretrained_weights``.

    Raises:
        MimoError: its feature extractor computes other frames, or its file cannot be read.
    """
    directory = Path(source)
    for name, key in _FILES:
        file = directory / name
        if not file.exists():
            continue
        said = _read(file)
        if key is not None:
            said = said.get(key)
        if not isinstance(said, dict):
            continue
        if key is None and "image_processor_type" in said and "feature_extractor_type" not in said:
            continue
        wrong = list(mistakes(said, options))
        if wrong:
            where = f"{file}, {key}" if key else str(file)
            raise MimoError(
                "; ".join(f"{where}: {one}" for one in wrong),
                code="whisper.other-frames",
                file=str(file),
                mistakes=tuple(wrong),
            )
        break
    return directory


def mistakes(said: Mapping[str, Any], options: Options) -> Iterator[str]:
    """Where an extractor with these keys computes other frames, each to be read after the name of
    its file."""
    kind = said.get("feature_extractor_type", KIND)
    if kind != KIND:
        yield f"feature_extractor_type is {kind!r}; the plugin computes the frames of {KIND}"
        return
    for key in said:
        if key not in DEFAULTS and key not in WITHOUT_EFFECT:
            yield f"{key} is not known here; remove it if no frame depends on it"
    due: dict[str, tuple[Any, str]] = {
        "feature_size": (options.mel_bins, "set the option mel_bins"),
        "sampling_rate": (SAMPLE_RATE, "the plugin resamples every sound to this rate"),
        "hop_length": (HOP, "the plugin has no other"),
        "n_fft": (N_FFT, "the plugin has no other"),
        "padding_value": (0.0, "the plugin pads with silence"),
        "padding_side": ("right", "the plugin pads at the end"),
        "dither": (0.0, "the plugin adds no noise"),
    }
    if options.windows == "padded":
        seconds = options.window_positions / POSITIONS_A_SECOND
        due["chunk_length"] = (seconds, "set the options window and max_positions")
    for key, (value, why) in due.items():
        found = said.get(key, DEFAULTS[key])
        if type(found) is bool or found != value:
            given = f"{key} is {found!r}" if key in said else f"{key} is missing, so {found!r}"
            yield f"{given}, but here it is {value!r}: {why}"


def _read(file: Path) -> dict[str, Any]:
    try:
        if not file.is_file() or file.stat().st_size > _MOST_BYTES:
            raise MimoError(
                f"{file} is no regular file of a configuration's size",
                code="weights.unreadable",
                file=str(file),
            )
        held = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise MimoError(
            f"{file} cannot be read: {error.strerror}", code="weights.unreadable", file=str(file)
        ) from error
    except MimoError:
        raise
    except (ValueError, RecursionError) as error:
        raise MimoError(
            f"{file} holds no JSON ({str(error)[-200:]})", code="weights.damaged", file=str(file)
        ) from error
    if not isinstance(held, dict):
        raise MimoError(
            f"{file} holds {type(held).__name__}, not an object",
            code="weights.damaged",
            file=str(file),
        )
    return held
