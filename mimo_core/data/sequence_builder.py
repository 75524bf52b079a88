"""Samples as token sequences: placeholders expanded, labels shifted, losses on learned text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import attrs
import numpy as np

from mimo_core.contract import LANGUAGE, Sample, TokenBatch
from mimo_core.errors import SampleError
from mimo_core.planning.model_graph import Graph
from mimo_core.planning.sequence_budget import media_positions, pieces

Tokens = tuple[list[int], list[float]]
"""Ids of a sample, and which of them are learned."""


@attrs.frozen(kw_only=True)
class SequenceBuilder:
    """Builds the language model's sequences for one run."""

    graph: Graph
    length: int
    """Most positions of a sample."""
    cut: bool = False
    """Cut the end of the text of a sample that is longer, instead of refusing it."""
    broken: Literal["stop", "skip"] | None = None
    """The dataset's policy for a sample without a learned token: refuse it, or keep it in its place
    without effect. ``None`` is ``stop`` of a dataset that lets users choose nothing."""

    def positions(self, encoder: str, sample: Sample) -> list[int]:
        """Sequence positions that each of the sample's media for ``encoder`` takes, in order.

        Raises:
            ValueError: the plugin counts another number of media than the sample has.
        """
        return media_positions(self.graph, encoder, sample)

    def rows(self, encoder: str, sample: Sample) -> int:
        """Sequence positions that the sample's media of ``encoder`` take."""
        return sum(self.positions(encoder, sample))

    def build(self, samples: Sequence[Sample], counted: Sequence[bool]) -> TokenBatch:
        """Sequences of these samples: padded ``[B, S]``, or packed ``[1, S]``.

        Args:
            samples: The slice's samples.
            counted: False for a filler, whose positions carry no loss.

        Raises:
            ValueError: a sample is longer than the run's sequence length, or has media that no
                encoder of the recipe reads.
        """
        return self.arrange([self.tokens(sample) for sample in samples], counted)

    def arrange(self, told: Sequence[Tokens], counted: Sequence[bool]) -> TokenBatch:
        """Sequences of samples whose :meth:`tokens` were made before."""
        learned = [
            learn if counts else [0.0] * len(learn)
            for (_, learn), counts in zip(told, counted, strict=True)
        ]
        own = [
            len(ids) - 1 if counts else 0 for (ids, _), counts in zip(told, counted, strict=True)
        ]
        module = self.graph.modules[LANGUAGE]
        build = self._packed if module.packing else self._padded
        return build([tokens for tokens, _ in told], learned, own)

    def _padded(
        self, tokens: list[list[int]], learned: list[list[float]], own: list[int]
    ) -> TokenBatch:
        # One id more than the sequence: the label of its last position.
        shape = (len(tokens), self.length + 1)
        ids = np.full(shape, self.graph.tokenizer.pad, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.float32)
        for row, (sample_ids, learn) in enumerate(zip(tokens, learned, strict=True)):
            ids[row, : len(sample_ids)] = sample_ids
            mask[row, : len(learn)] = learn
        positions = np.arange(self.length, dtype=np.int64)
        return TokenBatch(
            input_ids=ids[:, :-1],
            labels=ids[:, 1:],
            loss_mask=mask[:, 1:],
            position_ids=np.tile(positions, (len(tokens), 1)),
            padding_mask=positions >= np.array(own)[:, None],
        )

    def _packed(
        self, tokens: list[list[int]], learned: list[list[float]], own: list[int]
    ) -> TokenBatch:
        """All samples in one row, each without its last id, whose label it is."""
        grid = self.graph.modules[LANGUAGE].grid
        pad = self.graph.tokenizer.pad
        # Context-parallel ranks take two chunks of every sample: it is padded to that by itself.
        chunks = 2 * grid.cp if grid.cp > 1 else 1
        fills = [-(len(ids) - 1) % chunks for ids in tokens]
        tokens = [ids + [pad] * fill for ids, fill in zip(tokens, fills, strict=True)]
        learned = [learn + [0.0] * fill for learn, fill in zip(learned, fills, strict=True)]
        padding = -sum(len(ids) - 1 for ids in tokens) % (grid.tp * chunks)
        if padding:
            tokens = [*tokens, [pad] * (padding + 1)]
            learned = [*learned, [0.0] * (padding + 1)]
            own = [*own, 0]
        lengths = np.array([len(ids) - 1 for ids in tokens], dtype=np.int32)

        def row(parts: Iterator[np.ndarray], kind: type) -> np.ndarray:
            return np.concatenate([np.asarray(part, dtype=kind) for part in parts])[None]

        return TokenBatch(
            input_ids=row((ids[:-1] for ids in tokens), np.int64),
            labels=row((ids[1:] for ids in tokens), np.int64),
            loss_mask=row((learn[1:] for learn in learned), np.float32),
            position_ids=row((np.arange(length) for length in lengths), np.int64),
            padding_mask=row(
                (np.arange(length) >= count for length, count in zip(lengths, own, strict=True)),
                np.bool_,
            ),
            lengths=lengths,
        )

    def tokens(self, sample: Sample) -> Tokens:
        """Of a sample, its end included: it takes one position less.

        Raises:
            SampleError: as :meth:`build`; or no label of the sample is learned, and the dataset's
                policy is to stop.
        """
        parts = list(pieces(self.graph, sample))
        count, media = 0, 0
        for piece in parts:
            count += piece.size
            media = count if piece.encoder else media
        most = self.length + 1
        if count > most and not (self.cut and media <= self.length):
            raise SampleError(
                f"sample {sample.key} takes {count - 1} positions, more than "
                f"train.sequence_length = {self.length}; raise it, shorten the sample"
                + (
                    " (its media alone are too long)"
                    if self.cut
                    else ", or set data.overlength=truncate"
                ),
                code="sample.too-long",
                sample=sample.key,
                positions=count - 1,
                most=self.length,
            )
        tokens: list[int] = []
        learn: list[float] = []
        for piece in parts:
            tokens += piece.ids
            learn += [float(piece.learned)] * piece.size
        found = tokens[:most], learn[:most]
        if self.broken != "skip" and not has_labels(found):
            raise SampleError(
                self._without_labels(sample, learn),
                code="sample.no-labels",
                sample=sample.key,
                positions=len(learn) - 1,
                most=self.length,
            )
        return found

    def _without_labels(self, sample: Sample, learn: list[float]) -> str:
        way_out = " or leave such samples out (data.options.broken: skip)" if self.broken else ""
        if not any(learn[1:]):
            return (
                f"sample {sample.key} has no learned token: no text after its first token is "
                f"marked as learned; mark one,{way_out}".rstrip(",")
            )
        return (
            f"sample {sample.key} has no learned token in its first {self.length} positions "
            f"(train.sequence_length; data.overlength is truncate): its first learned token is at "
            f"position {learn.index(1.0, 1)} of {len(learn) - 1}; raise train.sequence_length, "
            f"shorten the text before it,{way_out}".rstrip(",")
        )


def has_labels(tokens: Tokens) -> bool:
    """Whether any label of a sample is learned. Its first token is no label."""
    return any(tokens[1][1:])
