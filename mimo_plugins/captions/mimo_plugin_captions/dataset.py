"""One split of a file of captions."""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np

from mimo_core import MimoError, Sample, Split
from mimo_plugin_captions.errors import Broken, broken_lines, told
from mimo_plugin_captions.index import KEPT, Faults, Index, read_caption, read_index
from mimo_plugin_captions.options import Options
from mimo_plugin_captions.records import Source, open_source
from mimo_plugin_captions.samples import sample_of
from mimo_plugin_captions.verify import without_broken_images


class Captions:
    """The good samples of one split, in the order of the file."""

    metric = "exact_captions"

    def __init__(
        self,
        *,
        index: Index,
        members: np.ndarray,
        source: Source,
        options: Options,
        note: str | None,
    ) -> None:
        """
        Args:
            index: All good records of the file.
            members: int64: which of them are of this split.
            source: The file.
            options: As in the recipe.
            note: What the user should know of the file; shown when the run starts.
        """
        self._index = index
        self._members = members
        self._source = source
        self._options = options
        self.note = note
        self.broken = options.broken
        content = hashlib.blake2b(digest_size=16)
        for column in (index.lines, index.contents, index.image_contents):
            content.update(column[members].tobytes())
        self.digest = content.hexdigest()
        """Hash of the lines, their numbers, and the contents of image files as far as
        :class:`~mimo_plugin_captions.image_files.ImageFile` has them; what is left out changes it
        too."""

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, index: int) -> Sample:
        """A sample; reads its line and the headers of its images.

        Raises:
            IndexError: there is no such sample.
            MimoError: an image is broken, or a file has changed since the dataset was built.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"this split has samples 0 to {len(self) - 1}, not {index}")
        place = int(self._members[index])
        line = int(self._index.lines[place])
        caption = read_caption(self._index, place, self._source, self._options)
        try:
            return sample_of(caption, line, self._options)
        except Broken as error:
            raise MimoError(
                f"{self._options.place(line)}: {error}{self._way_out}",
                code="captions.file-changed" if self.broken == "skip" else "captions.broken-lines",
                file=str(self._options.path),
                lines=(line,),
            ) from None

    @property
    def _way_out(self) -> str:
        if self._options.broken == "skip":
            return "; it was good when the run began"
        return "; mend it, or leave such lines out with data.options.broken: skip"


def build(options: Options, split: Split) -> Captions:
    """The samples of one split.

    Raises:
        MimoError: lines are broken and the policy is to stop, none is left, or the split is empty.
    """
    index, source, note = _good(options, options.path.stat().st_mtime_ns)
    is_held_out = index.ids < np.uint64(int(options.held_out * 2**64))
    members = np.flatnonzero(is_held_out if split == "validation" else ~is_held_out)
    if not len(members):
        raise MimoError(
            f"{options.path}: none of {len(index)} samples is in the {split} split, which a hash "
            f"of the id decides with data.options.held_out = {options.held_out}; "
            f"{'raise' if split == 'validation' else 'lower'} it, or give more samples",
            code="captions.empty-split",
            file=str(options.path),
            split=split,
            samples=len(index),
            held_out=options.held_out,
        )
    return Captions(index=index, members=members, source=source, options=options, note=note)


@lru_cache(maxsize=1)
def _good(options: Options, _changed: int) -> tuple[Index, Source, str | None]:
    """The good records, read once for both splits, and how many lines are left out, if any; which
    ones is printed."""
    source = open_source(options)
    index, faults = read_index(options)
    if options.broken == "stop" and faults.count:
        raise broken_lines(options, faults.told, faults.count, f"{faults.records} lines")
    if options.broken == "skip":
        index = without_broken_images(index, source, options, faults)
    if not len(index):
        raise broken_lines(options, faults.told, faults.count, f"{faults.records} lines")
    images = int(index.image_counts.sum())
    print(f"captions: {options.path}: {len(index)} samples with {images} images")
    note = None
    if faults.count:
        note = _left_out(options, faults)
        print(f"captions: {faults.count} of {faults.records} lines are broken and left out:")
        print("\n".join(told(options, faults.told, faults.count, KEPT)))
    return index, source, note


def _left_out(options: Options, faults: Faults) -> str:
    are = "is" if faults.count == 1 else "are"
    which = "each" if faults.count <= KEPT else f"the first {KEPT}"
    return (
        f"{faults.count} of {faults.records} lines {are} left out ({options.path}; {which} in "
        "the log)"
    )
