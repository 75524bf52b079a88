"""Where the positions of a sequence come from: text, and the media that each encoder reads.

A sample takes the positions of its text and of its placeholders; the end that follows it is a
label only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from mimo_core.contract import MediaItem, Sample
from mimo_core.errors import PluginError, RecipeError, SampleError, code_of, text_of
from mimo_core.planning.model_graph import Graph
from mimo_core.plugins.result_validation import DUE_POSITIONS, counts_of, shown

_UNCOUNTED = "sample.no-positions"


@attrs.frozen(kw_only=True)
class TokenSegment:
    """Some ids of a sample's sequence that come from one source."""

    unit: list[int]
    """The ids of the piece, or those that it repeats."""
    repeats: int = 1
    encoder: str | None = None
    """The encoder whose rows go there; ``None`` for text."""
    learned: bool = False

    @property
    def size(self) -> int:
        """Number of ids."""
        return len(self.unit) * self.repeats

    @property
    def ids(self) -> list[int]:
        return self.unit * self.repeats


@attrs.frozen(kw_only=True)
class PositionCounts:
    """Positions of one sample."""

    sample: str
    """Its key."""
    encoders: dict[str, int]
    text: int
    """Ids that the tokenizer puts before every sample included."""
    learned: int
    """Labels that are learned: the learned text, and the end that follows it."""
    kept: int
    """Those of them that are within the sequence, where longer samples are cut."""

    @property
    def total(self) -> int:
        return sum(self.encoders.values()) + self.text

    @property
    def by_source(self) -> str:
        """``vision 256, text 12``."""
        return ", ".join(f"{name} {n}" for name, n in (*self.encoders.items(), ("text", self.text)))


def media_positions(graph: Graph, encoder: str, sample: Sample) -> list[int]:
    """Sequence positions that each of the sample's media for ``encoder`` takes, in order.

    Raises:
        SampleError: the plugin cannot count them.
        PluginError: the plugin does not give a number for each.
    """
    description = graph.descriptions[encoder]
    assert description.modality is not None and description.count_positions is not None
    media = tuple(sample.media(description.modality))
    if not media:
        return []
    try:
        answer = description.count_positions(media)
        counts = counts_of(answer)
    except ValueError as error:
        message = f"sample {sample.key}: {text_of(error)}"
        raise SampleError(message, code=code_of(error, _UNCOUNTED), sample=sample.key) from error
    if counts is None or len(counts) != len(media):
        raise PluginError(
            f"sample {sample.key} has {len(media)} media of kind {description.modality!r}, but "
            f"describe_module().count_positions of module {encoder!r} (plugin "
            f"{graph.modules[encoder].plugin!r}) gave {shown(answer)}; expected {DUE_POSITIONS}",
            code="plugin.wrong-answer",
            plugin=graph.modules[encoder].plugin,
            hook="describe_module",
            field="positions",
        )
    return counts


def pieces(graph: Graph, sample: Sample) -> Iterator[TokenSegment]:
    """The ids of a sample in the order of the sequence, from the tokenizer's begin to its end.

    The end is learned where the text before it is.

    Raises:
        ValueError: the sample has media that no encoder of the recipe reads, or whose positions
            cannot be counted.
    """
    tokenizer = graph.tokenizer
    rows = {name: iter(media_positions(graph, name, sample)) for name in graph.encoders}
    yield TokenSegment(unit=list(tokenizer.begin))
    learned, start = False, True
    for part in sample.content:
        if isinstance(part, MediaItem):
            learned = False
            for encoder in _readers(graph, sample, part):
                placeholder = tokenizer.placeholder_id(graph.edge_of(encoder).placeholder)
                yield TokenSegment(unit=[placeholder], repeats=next(rows[encoder]), encoder=encoder)
        else:
            learned = part.is_target
            yield TokenSegment(unit=tokenizer.encode(part.text, start=start), learned=learned)
            start = start and not part.text
    yield TokenSegment(unit=[tokenizer.end], learned=learned)


def count_positions(graph: Graph, sample: Sample, length: int | None = None) -> PositionCounts:
    """Positions of a sample by source.

    Args:
        graph: Of the recipe.
        sample: To count.
        length: Positions of a sequence, where longer samples are cut.

    Raises:
        ValueError: as :func:`pieces`.
    """
    encoders = dict.fromkeys(graph.encoders, 0)
    text, count, learned, kept = 0, 0, 0, 0
    *before, end = pieces(graph, sample)
    for piece in (*before, end):
        start, count = count, count + piece.size
        if piece.learned:
            # The label of a position is the id that follows it: the first id is no label.
            learned += max(0, count - max(start, 1))
            kept += max(0, min(count, (count if length is None else length) + 1) - max(start, 1))
        if piece is not end:
            if piece.encoder is None:
                text += piece.size
            else:
                encoders[piece.encoder] += piece.size
    return PositionCounts(
        sample=sample.key, encoders=encoders, text=text, learned=learned, kept=kept
    )


def preview(
    graph: Graph, samples: Sequence[Sample], sequence_length: int, *, cut: bool = False
) -> tuple[PositionCounts, ...]:
    """Positions of the samples that the dataset's plugin shows; none where it shows no samples.

    Where longer samples are ``cut``, those are refused whose media alone do not fit.

    Raises:
        RecipeError: a sample that does not fit into the sequence, or that cannot be counted; or no
            sample has a learned token.
    """
    try:
        length = sequence_length if cut else None
        found = tuple(count_positions(graph, sample, length) for sample in samples)
    except ValueError as error:
        code = code_of(error, _UNCOUNTED)
        raise RecipeError(text_of(error), ("data",), code=code) from error
    for counts in found:
        if (sum(counts.encoders.values()) if cut else counts.total) > sequence_length:
            raise RecipeError(
                f"sample {counts.sample} takes {counts.total} positions ({counts.by_source}), more "
                f"than sequence_length {sequence_length}; raise it to {counts.total} or more, or "
                "make samples shorter by the options of the data or of the encoders"
                + ("" if cut else ", or set data.overlength to truncate"),
                ("train", "sequence_length"),
                code="sample.too-long",
                sample=counts.sample,
                positions=counts.total,
                sequence_length=sequence_length,
            )
    if found and not any(counts.kept for counts in found):
        raise RecipeError(
            f"none of the {len(found)} samples that plugin {graph.data.plugin!r} shows has a "
            "learned token"
            + (
                f" in its first {sequence_length} positions; raise it, or give samples with "
                "shorter prompts (data.overlength is truncate)"
                if any(counts.learned for counts in found)
                else "; mark the text to be learned"
            ),
            ("train", "sequence_length"),
            code="data.no-labels",
            samples=len(found),
        )
    return found


def label_notes(samples: Sequence[PositionCounts]) -> list[str]:
    """What a person should know of the labels that cutting takes away, a line each.

    Args:
        samples: Those that the dataset's plugin shows.
    """
    without = [counts.sample for counts in samples if not counts.kept]
    learned = sum(counts.learned for counts in samples)
    kept = sum(counts.kept for counts in samples)
    notes = []
    if without:
        notes.append(
            f"{len(without)} of {len(samples)} samples that the plan looked at have no learned "
            f"token, {without[0]} is the first; such samples stop the run, unless the dataset's "
            "plugin leaves them out"
        )
    if kept < learned / 2:
        notes.append(
            f"data.overlength = truncate leaves few labels: {kept} of {learned} learned tokens of "
            "the "
            "samples that the plan looked at; raise train.sequence_length"
        )
    return notes


def _readers(graph: Graph, sample: Sample, medium: MediaItem) -> list[str]:
    """The encoders that read a medium."""
    read = {name: graph.descriptions[name].modality for name in graph.encoders}
    readers = [name for name, kind in read.items() if kind == medium.modality]
    if not readers:
        raise SampleError(
            f"sample {sample.key} has media of kind {medium.modality!r}, but no encoder of the "
            f"recipe reads it (encoders and what they read: {read})",
            code="sample.no-encoder",
            sample=sample.key,
            kind=medium.modality,
        )
    return readers
