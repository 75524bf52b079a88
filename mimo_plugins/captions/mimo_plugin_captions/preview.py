"""The first samples of a file, for the plan: without torch and numpy."""

from __future__ import annotations

from itertools import islice

from mimo_core import Sample
from mimo_plugin_captions.captions import caption_of
from mimo_plugin_captions.errors import Broken, Fault, broken_lines
from mimo_plugin_captions.options import Options
from mimo_plugin_captions.records import open_source
from mimo_plugin_captions.samples import sample_of

GOOD = 64
"""Samples that are enough."""

READ = 1024
"""Lines that are read at most."""


def first_samples(options: Options) -> list[Sample]:
    """The first samples that are not broken, whatever their split.

    Raises:
        MimoError: none of the first lines is good; or one is broken, and the policy is to stop.
    """
    source = open_source(options)
    samples: list[Sample] = []
    faults: list[Fault] = []
    for record in islice(source.records(), READ):
        try:
            caption = caption_of(source.values(record.raw), options)
            samples.append(sample_of(caption, record.line, options))
        except Broken as error:
            faults.append((record.line, str(error)))
        if len(samples) == GOOD:
            break
    if faults and (options.broken == "stop" or not samples):
        raise broken_lines(options, faults, len(faults), len(faults) + len(samples))
    return samples
