"""Datasets: samples, keys, media, copies, the preview."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np

from mimo_core.contract import Dataset, DatasetConfig, MediaItem, Sample, Split, Text
from mimo_core.testing.fixtures import Bench
from mimo_core.testing.outcome import Finding, UndeclaredSupportError

SPLITS: tuple[Split, ...] = get_args(Split)


def lengths(bench: Bench) -> Iterator[Finding]:
    """Both splits hold samples, as many with every seed of the run."""
    for split in SPLITS:
        found = {seed: len(build(bench, split, seed)) for seed in (1234, 1235)}
        if min(found.values()) < 1:
            yield Finding(
                said=f"the {split} split of {bench.name!r} has no samples",
                fix="give it some, or raise an error that says which option to change",
            )
        if len(set(found.values())) > 1:
            yield Finding(
                said=f"the {split} split of {bench.name!r} has other lengths with other seeds: "
                f"{found}",
                fix="data.seed may choose contents and order; lengths must follow from the options",
            )


def samples(bench: Bench) -> Iterator[Finding]:
    """Samples of the contract's types, each with text to be learned."""
    for split, index, sample in looked_at(bench):
        where = f"sample {index} of the {split} split of {bench.name!r}"
        if not isinstance(sample, Sample):
            yield Finding(
                said=f"{where} is a {type(sample).__name__}", fix="return mimo_core.Sample"
            )
            return
        if not isinstance(sample.content, tuple) or not all(
            isinstance(part, Text | MediaItem) for part in sample.content
        ):
            kinds = [type(part).__name__ for part in sample.content]
            yield Finding(said=f"{where} has parts {kinds}", fix="parts: a tuple of Text and Media")
            return
        if not any(
            isinstance(part, Text) and part.is_target and part.text for part in sample.content
        ):
            yield Finding(
                said=f"{where} ({sample.key}) has no text that is learned: it teaches nothing",
                fix="mark what the model shall say: Text(text=…, loss=True)",
            )
            return


def keys(bench: Bench) -> Iterator[Finding]:
    """A key names one sample, in one split."""
    owners: dict[str, tuple[Split, int]] = {}
    for split, index, sample in looked_at(bench):
        other = owners.setdefault(sample.key, (split, index))
        if other != (split, index):
            yield Finding(
                said=f"samples {other[1]} of {other[0]} and {index} of {split} of {bench.name!r} "
                f"have one key: {sample.key!r}",
                fix="make the key of the original's own name and number; if it is the same "
                "original, keep it out of one split: the evaluation would ask what was learned",
            )
            return


def media(bench: Bench) -> Iterator[Finding]:
    """Data of the shape that the metadata say, the same at every load, drawn from the generator
    alone."""
    loaded = False
    for _, index, sample in looked_at(bench):
        for medium in (part for part in sample.content if isinstance(part, MediaItem)):
            loaded = True
            wrong = list(_medium(f"{medium.modality} of sample {index} ({sample.key})", medium))
            yield from wrong
            if wrong:
                return
    if not loaded:
        raise UndeclaredSupportError("media: the samples looked at are of text alone")


def pickled(bench: Bench) -> Iterator[Finding]:
    """Worker processes get the dataset by pickle where they are not forked."""
    for split in SPLITS:
        dataset = build(bench, split)
        try:
            again: Dataset = pickle.loads(pickle.dumps(dataset))
        except Exception as error:
            yield Finding(
                said=f"the {split} split of {bench.name!r} cannot be pickled: {error}",
                fix="keep open files, locks and lambdas out of the dataset's attributes (open when "
                "a sample is asked for; functools.partial in place of a lambda)",
            )
            return
        if fingerprint(again[0]) != fingerprint(dataset[0]):
            yield Finding(
                said=f"sample 0 of the {split} split of {bench.name!r} is another after pickling",
                fix="samples must follow from what the dataset's attributes hold",
            )


def preview(bench: Bench) -> Iterator[Finding]:
    """The plan's samples: none of the dataset is longer."""
    data = bench.graph().data
    if not bench.host.implements("preview_samples", data.plugin):
        raise UndeclaredSupportError("preview: the plugin has no hook preview()")
    shown = [
        _size(sample) for sample in bench.host.call_hook("preview_samples", data.plugin, data=data)
    ]
    if not shown:
        yield Finding(said=f"preview() of {bench.name!r} shows nothing", fix="give a few samples")
        return
    for split, index, sample in looked_at(bench):
        for what, size in _size(sample).items():
            if all(size > one.get(what, 0) for one in shown):
                most = max(one.get(what, 0) for one in shown)
                yield Finding(
                    said=f"sample {index} of the {split} split of {bench.name!r} ({sample.key}) "
                    f"has {size} {what}, but no sample of preview() has more than {most}",
                    fix="preview() must show the longest: `mimo plan` says by it whether the "
                    "sequence is long enough",
                )
                return


def build(bench: Bench, split: Split, seed: int = 1234) -> Dataset:
    """One split."""
    data: DatasetConfig = bench.graph(seed=seed).data
    built: Dataset = bench.host.call_hook("build_dataset", data.plugin, data=data, split=split)
    return built


def looked_at(bench: Bench) -> Iterator[tuple[Split, int, Sample]]:
    """Samples spread over both splits, the first and the last among them."""
    for split in SPLITS:
        dataset = build(bench, split)
        count = min(bench.subject.looked_at, len(dataset))
        last = len(dataset) - 1
        for index in dict.fromkeys(round(at * last / max(count - 1, 1)) for at in range(count)):
            yield split, index, dataset[index]


def fingerprint(sample: Sample) -> list[Any]:
    """All that a sample says, its media decoded; plain values."""
    parts: list[Any] = [sample.key]
    for part in sample.content:
        if isinstance(part, Text):
            parts.append([part.text, part.is_target])
        else:
            array = part.load(None)
            parts.append([part.modality, list(part.shape), str(array.dtype), array.tobytes().hex()])
    return parts


def _medium(where: str, medium: MediaItem) -> Iterator[Finding]:
    state = np.random.get_state()[1]
    plain, again = medium.load(None), medium.load(None)
    drawn, redrawn = (medium.load(np.random.default_rng(7)) for _ in range(2))
    if not np.array_equal(plain, again):
        yield Finding(
            said=f"{where} is another at each load without a generator",
            fix="augment only where load() is given a generator: the evaluation is given none",
        )
    elif not np.array_equal(drawn, redrawn) or not np.array_equal(np.random.get_state()[1], state):
        yield Finding(
            said=f"{where} draws random numbers that are not the given generator's",
            fix="draw from load()'s argument alone, so that a run that goes on augments alike",
        )
    for array in (plain, drawn):
        # Of a sound, samples and their rate.
        shape = medium.shape[:1] if medium.modality == "audio" else medium.shape
        if not isinstance(array, np.ndarray) or tuple(array.shape[: len(shape)]) != tuple(shape):
            got = list(array.shape) if isinstance(array, np.ndarray) else type(array).__name__
            yield Finding(
                said=f"{where} is told as {list(medium.shape)}, but load() gives {got}",
                fix="Media.shape must be that of the data, augmented or not: sequence positions "
                "are counted from it on ranks that never decode",
            )
            return
        if medium.modality == "image" and (array.dtype != np.uint8 or array.shape[2:] != (3,)):
            yield Finding(
                said=f"{where} is {array.dtype} {list(array.shape)}",
                fix="an image is uint8 [height, width, 3]: convert it in load()",
            )
            return
        if medium.modality == "audio" and (
            array.dtype != np.float32 or array.ndim != 1 or not np.abs(array).max(initial=0) <= 1
        ):
            yield Finding(
                said=f"{where} is {array.dtype} {list(array.shape)}, at most "
                f"{np.abs(array).max(initial=0)}",
                fix="a sound is float32 [samples], mono, between -1 and 1, and its Media.shape "
                "(samples, samples a second): convert it in load()",
            )
            return


def _size(sample: Sample) -> dict[str, int]:
    found = {"bytes of text": 0}
    for part in sample.content:
        if isinstance(part, Text):
            found["bytes of text"] += len(part.text.encode())
        else:
            name = f"media of kind {part.modality!r}"
            found[name] = found.get(name, 0) + 1
    return found
