"""Samples as token sequences: placeholders expanded, labels shifted, losses on learned text."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from mimo_core.contract import Media, Sample, Sequences
from mimo_core.graph import Graph


@attrs.frozen(kw_only=True)
class SequenceBuilder:
    """Builds the language model's sequences for one run."""

    graph: Graph
    length: int

    def rows(self, encoder: str, sample: Sample) -> int:
        """Sequence positions that the sample's media of ``encoder`` take."""
        description = self.graph.descriptions[encoder]
        assert description.accepts is not None and description.positions is not None
        return sum(description.positions(medium) for medium in sample.media(description.accepts))

    def build(self, samples: Sequence[Sample], counted: Sequence[bool]) -> Sequences:
        """Sequences ``[B, S]`` of these samples.

        Args:
            samples: The slice's samples.
            counted: False for a filler, whose positions carry no loss.

        Raises:
            ValueError: a sample is longer than the run's sequence length, or has media that no
                encoder of the recipe reads.
        """
        tokenizer = self.graph.tokenizer
        # One id more than the sequence: the label of its last position.
        ids = np.full((len(samples), self.length + 1), tokenizer.pad, dtype=np.int64)
        learned = np.zeros((len(samples), self.length + 1), dtype=np.float32)
        for row, (sample, counts) in enumerate(zip(samples, counted, strict=True)):
            tokens, learn = self._tokens(sample)
            if len(tokens) > self.length + 1:
                raise ValueError(
                    f"sample {sample.key} takes {len(tokens) - 1} positions, more than "
                    f"train.sequence_length = {self.length}; raise it, or shorten the sample"
                )
            ids[row, : len(tokens)] = tokens
            if counts:
                learned[row, : len(tokens)] = learn
        positions = np.arange(self.length, dtype=np.int64)
        return Sequences(
            input_ids=ids[:, :-1],
            labels=ids[:, 1:],
            loss_mask=learned[:, 1:],
            position_ids=np.broadcast_to(positions, (len(samples), self.length)),
        )

    def _tokens(self, sample: Sample) -> tuple[list[int], list[float]]:
        tokenizer = self.graph.tokenizer
        tokens: list[int] = []
        learn: list[float] = []
        learns = False
        for part in sample.parts:
            if isinstance(part, Media):
                piece = self._placeholders(sample, part)
                learns = False
            else:
                piece = tokenizer.encode(part.text)
                learns = part.loss
            tokens += piece
            learn += [float(learns)] * len(piece)
        return [*tokens, tokenizer.end], [*learn, float(learns)]

    def _placeholders(self, sample: Sample, medium: Media) -> list[int]:
        piece: list[int] = []
        is_read = False
        for encoder in self.graph.encoders:
            description = self.graph.descriptions[encoder]
            if description.accepts == medium.kind:
                assert description.positions is not None
                is_read = True
                symbol = self.graph.edge_of(encoder).placeholder
                piece += [self.graph.tokenizer.placeholder_id(symbol)] * description.positions(
                    medium
                )
        if not is_read:
            read = {name: self.graph.descriptions[name].accepts for name in self.graph.encoders}
            raise ValueError(
                f"sample {sample.key} has media of kind {medium.kind!r}, but no encoder of the "
                f"recipe reads it (encoders and what they read: {read})"
            )
        return piece
