"""Decodes every image once, so that all ranks leave out the same ones."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import batched

import numpy as np

from mimo_plugin_captions.errors import Broken, shown
from mimo_plugin_captions.index import Faults, Index, read_caption
from mimo_plugin_captions.options import Options
from mimo_plugin_captions.pictures import decode
from mimo_plugin_captions.records import Source
from mimo_plugin_captions.samples import unreadable
from mimo_plugin_captions.verdicts import Cache, Verdicts

_TOGETHER = 256
"""Images that are given to the threads at a time."""

_TELL_EVERY = 30.0
"""Seconds."""


def without_broken_images(index: Index, source: Source, options: Options, faults: Faults) -> Index:
    """The records all of whose images can be decoded; the others are added to ``faults``.

    Each image is decoded once on a machine: the verdicts are kept in a cache folder for other
    ranks and later runs, until the file changes.
    """
    cache = Cache(options)
    verdicts = cache.read()
    if len(verdicts.unknown(index.images)):
        with cache.alone():
            verdicts = cache.read().of(index.images)
            unknown = verdicts.unknown(index.images)
            if len(unknown):
                broken = _decode_all(unknown, index, source, options)
                verdicts = verdicts.and_also(unknown, broken)
                cache.write(verdicts)
    return _without(verdicts, index, source, options, faults)


def _decode_all(
    images: np.ndarray, index: Index, source: Source, options: Options
) -> dict[int, str]:
    """Decodes these images (fingerprints); the broken ones with the reasons."""
    threads = len(os.sched_getaffinity(0))
    print(f"captions: decoding {len(images)} images once, on {threads} threads", flush=True)
    started = told = time.monotonic()
    done = 0
    broken: dict[int, str] = {}

    def verdict(image: tuple[int, int, str]) -> tuple[int, str]:
        fingerprint, line, path = image
        try:
            decode(options.root / path)
        except Broken as error:
            return fingerprint, str(error)
        except OSError as error:
            raise unreadable(options.place(line), path, error) from error
        return fingerprint, ""

    with ThreadPoolExecutor(max_workers=threads) as pool:
        for some in batched(_named(images, index, source, options), _TOGETHER):
            broken |= {image: why for image, why in pool.map(verdict, some) if why}
            done += len(some)
            if time.monotonic() - told > _TELL_EVERY:
                told = time.monotonic()
                print(f"captions: {done} of {len(images)} images decoded", flush=True)
    seconds = time.monotonic() - started
    print(f"captions: decoded in {seconds:.1f} s; {len(broken)} are broken", flush=True)
    return broken


def _named(
    images: np.ndarray, index: Index, source: Source, options: Options
) -> Iterator[tuple[int, int, str]]:
    """(fingerprint, line, path) of images, by the fingerprints."""
    ends = np.cumsum(index.image_counts)
    _, places = np.unique(index.images, return_index=True)
    for place in np.sort(places[np.isin(index.images[places], images)]):
        record = int(np.searchsorted(ends, place, side="right"))
        within = int(place - ends[record] + index.image_counts[record])
        paths = read_caption(index, record, source, options).images
        yield int(index.images[place]), int(index.lines[record]), paths[within]


def _without(
    verdicts: Verdicts, index: Index, source: Source, options: Options, faults: Faults
) -> Index:
    is_broken = np.isin(index.images, verdicts.broken)
    owners = np.repeat(np.arange(len(index)), index.image_counts)
    kept = np.ones(len(index), dtype=bool)
    kept[owners[is_broken]] = False
    begins = np.cumsum(index.image_counts) - index.image_counts
    for record in np.flatnonzero(~kept):
        begin = begins[record]
        first = int(np.argmax(is_broken[begin : begin + index.image_counts[record]]))
        path = read_caption(index, int(record), source, options).images[first]
        reason = verdicts.reason(int(index.images[begin + first]))
        faults.add(int(index.lines[record]), f"image {shown(path)}: {reason}")
    return index.where(kept)
