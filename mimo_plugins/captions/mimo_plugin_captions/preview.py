"""The first samples of a file and its longest, for the plan: without torch and numpy."""

from __future__ import annotations

from itertools import islice

from mimo_core import Sample
from mimo_plugin_captions.captions import caption_of
from mimo_plugin_captions.errors import Broken, Fault, broken_lines, nothing_to_learn
from mimo_plugin_captions.longest import longest_after
from mimo_plugin_captions.options import Options
from mimo_plugin_captions.records import Record, Source, open_source
from mimo_plugin_captions.samples import sample_of

GOOD = 64
"""First samples that are enough."""

READ = 1024
"""First lines that are read at most."""


def preview_samples(options: Options) -> list[Sample]:
    """The first samples that are not broken, whatever their split, and the one of the longest line
    after them, unless it is broken.

    Raises:
        MimoError: there are no lines; none of the first is good; or one of them is broken, and the
            policy is to stop.
    """
    source = open_source(options)
    samples: list[Sample] = []
    faults: list[Fault] = []
    record: Record | None = None
    for record in islice(source.records(), READ):
        try:
            samples.append(_sample(record, source, options))
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
    try:
        return [*samples, _sample(longest, source, options)] if longest else samples
    except Broken:
        return samples


def _sample(record: Record, source: Source, options: Options) -> Sample:
    return sample_of(caption_of(source.values(record.raw), options), record.line, options)
