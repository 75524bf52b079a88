"""The first samples of a file and its longest, for the plan: without torch and numpy."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import islice

from mimo_core import Sample
from mimo_plugin_captions.captions import caption_of
from mimo_plugin_captions.errors import (
    Broken,
    Fault,
    broken_lines,
    nothing_to_learn,
    same_id,
)
from mimo_plugin_captions.longest import longest_after
from mimo_plugin_captions.options import Options
from mimo_plugin_captions.records import Record, Source, open_source
from mimo_plugin_captions.samples import sample_of

GOOD = 64
"""First samples that are enough."""

READ = 1024
"""First lines that are read at most."""

SOUGHT = 100_000
"""Lines that are searched at most for one with an image, where the first samples have none."""


def preview_samples(options: Options) -> list[Sample]:
    """The first samples that are not broken, whatever their split, and the one of the longest line
    after them, unless it is broken; and one with an image where these have none.

    Raises:
        MimoError: there are no lines; none of the first is good; or one of them is broken, and the
            policy is to stop.
    """
    source = open_source(options)
    samples: list[Sample] = []
    faults: list[Fault] = []
    record: Record | None = None
    lines: dict[str, int] = {}
    for record in islice(source.records(), READ):
        try:
            caption = caption_of(source.values(record.raw), options)
            samples.append(sample_of(caption, record.line, options))
            if (first := lines.setdefault(caption.id, record.line)) != record.line:
                samples.pop()
                raise Broken(same_id(caption.id, first))
        except Broken as error:
            faults.append((record.line, str(error)))
        if len(samples) == GOOD:
            break
    if record is None:
        raise nothing_to_learn(options)
    if faults and (options.broken == "stop" or not samples):
        read = f"the first {len(faults) + len(samples)} lines"
        raise broken_lines(options, faults, len(faults), read)
    longest = longest_after(record, source, options.path)
    with suppress(Broken):
        samples += [_sample(longest, source, options)] if longest else []
    return samples if any(map(_has_image, samples)) else [*samples, *_with_image(source, options)]


def _has_image(sample: Sample) -> bool:
    return any(sample.media("image"))


def _with_image(source: Source, options: Options) -> list[Sample]:
    """The first sample of the file that has an image, if one of the first lines is such."""
    names = [json.dumps(name).encode() for name in options.image_fields]
    is_json = options.path.suffix.lower() == ".jsonl"
    for record in islice(source.records(), SOUGHT):
        if is_json and not any(name in record.raw for name in names):
            continue
        try:
            if caption_of(source.values(record.raw), options).images:
                return [_sample(record, source, options)]
        except Broken:
            continue
    return []


def _sample(record: Record, source: Source, options: Options) -> Sample:
    return sample_of(caption_of(source.values(record.raw), options), record.line, options)
