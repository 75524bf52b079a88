"""Samples as token sequences: placeholders expanded, labels shifted, losses on learned text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs
import numpy as np

from mimo_core.contract import LANGUAGE, Media, Sample, Sequences
from mimo_core.graph import Graph


@attrs.frozen(kw_only=True)
class SequenceBuilder:
    """Builds the language model's sequences for one run."""

    graph: Graph
    length: int
    """Most positions of a sample."""

    def positions(self, encoder: str, sample: Sample) -> list[int]:
        """Sequence positions that each of the sample's media for ``encoder`` takes, in order.

        Raises:
            ValueError: the plugin counts another number of media than the sample has.
        """
        description = self.graph.descriptions[encoder]
        assert description.accepts is not None and description.positions is not None
        media = tuple(sample.media(description.accepts))
        if not media:
            return []
        counts = list(description.positions(media))
        if len(counts) != len(media):
            raise ValueError(
                f"sample {sample.key} has {len(media)} media of kind {description.accepts!r}, but "
                f"describe().positions of module {encoder!r} gave {len(counts)} numbers: {counts}"
            )
        return counts

    def rows(self, encoder: str, sample: Sample) -> int:
        """Sequence positions that the sample's media of ``encoder`` take."""
        return sum(self.positions(encoder, sample))

    def build(self, samples: Sequence[Sample], counted: Sequence[bool]) -> Sequences:
        """Sequences of these samples: padded ``[B, S]``, or packed ``[1, S]``.

        Args:
            samples: The slice's samples.
            counted: False for a filler, whose positions carry no loss.

        Raises:
            ValueError: a sample is longer than the run's sequence length, or has media that no
                encoder of the recipe reads.
        """
        told = [self._tokens(sample) for sample in samples]
        for sample, (tokens, _) in zip(samples, told, strict=True):
            if len(tokens) > self.length + 1:
                raise ValueError(
                    f"sample {sample.key} takes {len(tokens) - 1} positions, more than "
                    f"train.sequence_length = {self.length}; raise it, or shorten the sample"
                )
        learned = [
            learn if counts else [0.0] * len(learn)
            for (_, learn), counts in zip(told, counted, strict=True)
        ]
        module = self.graph.modules[LANGUAGE]
        build = self._packed if module.packing else self._padded
        return build([tokens for tokens, _ in told], learned)

    def _padded(self, tokens: list[list[int]], learned: list[list[float]]) -> Sequences:
        # One id more than the sequence: the label of its last position.
        shape = (len(tokens), self.length + 1)
        ids = np.full(shape, self.graph.tokenizer.pad, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.float32)
        for row, (sample_ids, learn) in enumerate(zip(tokens, learned, strict=True)):
            ids[row, : len(sample_ids)] = sample_ids
            mask[row, : len(learn)] = learn
        positions = np.arange(self.length, dtype=np.int64)
        return Sequences(
            input_ids=ids[:, :-1],
            labels=ids[:, 1:],
            loss_mask=mask[:, 1:],
            position_ids=np.broadcast_to(positions, (len(tokens), self.length)),
        )

    def _packed(self, tokens: list[list[int]], learned: list[list[float]]) -> Sequences:
        """All samples in one row, each without its last id, whose label it is."""
        grid = self.graph.modules[LANGUAGE].grid
        multiple = grid.tp * (2 * grid.cp if grid.cp > 1 else 1)
        padding = -sum(len(ids) - 1 for ids in tokens) % multiple
        if padding:
            tokens = [*tokens, [self.graph.tokenizer.pad] * (padding + 1)]
            learned = [*learned, [0.0] * (padding + 1)]
        lengths = np.array([len(ids) - 1 for ids in tokens], dtype=np.int32)

        def row(parts: Iterator[np.ndarray], kind: type) -> np.ndarray:
            return np.concatenate([np.asarray(part, dtype=kind) for part in parts])[None]

        return Sequences(
            input_ids=row((ids[:-1] for ids in tokens), np.int64),
            labels=row((ids[1:] for ids in tokens), np.int64),
            loss_mask=row((learn[1:] for learn in learned), np.float32),
            position_ids=row((np.arange(length) for length in lengths), np.int64),
            lengths=lengths,
        )

    def _tokens(self, sample: Sample) -> tuple[list[int], list[float]]:
        """Ids of a sample, its end included, and which of them are learned."""
        tokenizer = self.graph.tokenizer
        rows = {name: iter(self.positions(name, sample)) for name in self.graph.encoders}
        tokens: list[int] = list(tokenizer.begin)
        learn: list[float] = [0.0] * len(tokens)
        learns = False
        for part in sample.parts:
            if isinstance(part, Media):
                piece = self._placeholders(sample, part, rows)
                learns = False
            else:
                piece = tokenizer.encode(part.text)
                learns = part.loss
            tokens += piece
            learn += [float(learns)] * len(piece)
        return [*tokens, tokenizer.end], [*learn, float(learns)]

    def _placeholders(
        self, sample: Sample, medium: Media, rows: dict[str, Iterator[int]]
    ) -> list[int]:
        """Placeholders of one medium, for every encoder that reads it."""
        piece: list[int] = []
        is_read = False
        for encoder in self.graph.encoders:
            if self.graph.descriptions[encoder].accepts == medium.kind:
                is_read = True
                symbol = self.graph.edge_of(encoder).placeholder
                piece += [self.graph.tokenizer.placeholder_id(symbol)] * next(rows[encoder])
        if not is_read:
            read = {name: self.graph.descriptions[name].accepts for name in self.graph.encoders}
            raise ValueError(
                f"sample {sample.key} has media of kind {medium.kind!r}, but no encoder of the "
                f"recipe reads it (encoders and what they read: {read})"
            )
        return piece
