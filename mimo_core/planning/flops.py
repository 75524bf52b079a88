"""The work of samples, by module: model FLOPs of training on them, and media read.

Told from their metadata by the plugins' hook ``flops``; the same wherever it is asked.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import attrs

from mimo_core.contract import LANGUAGE, FlopsEstimate, Sample
from mimo_core.planning.model_graph import Graph
from mimo_core.plugins import Host


@attrs.frozen(kw_only=True)
class SampleFlops:
    """Of some samples."""

    flops: dict[str, float]
    """By module, forward and backward; modules are left out whose plugins tell none."""
    media: dict[str, int]
    """By encoder: media that it reads."""


class FlopsCounter:
    """Tells the work of samples as numbers that can be added up."""

    def __init__(self, graph: Graph, host: Host) -> None:
        self._graph = graph
        self._host = host
        names = (*graph.encoders, LANGUAGE)
        self._told = tuple(
            name for name in names if host.implements("estimate_flops", graph.modules[name].plugin)
        )
        self._an_encoder_learns = any_encoder_trainable(graph)

    def numbers(self, samples: Sequence[Sample], lengths: Sequence[int]) -> tuple[float, ...]:
        """The work of these samples, as :meth:`read` reads it.

        Args:
            samples: Of a training batch.
            lengths: Positions that each takes in the language model's sequence, without padding.
        """
        flops = []
        before = self._an_encoder_learns
        # Encoders come first: whether gradients go through the language model depends on them.
        for name in self._told:
            module = self._graph.modules[name]
            pieces: Sequence[FlopsEstimate] = self._host.call_hook(
                "estimate_flops", module.plugin, module=module, samples=samples, lengths=lengths
            )
            wanted = before and module.is_language
            flops.append(training_flops(pieces, module.freeze, gradients=wanted))
            # Adapters learn in weights that do not.
            before = before or any(_learns(piece, module.freeze) for piece in pieces)
        media = [
            float(sum(1 for sample in samples for _ in sample.media(kind)))
            for kind in map(self._kind, self._graph.encoders)
        ]
        return (*flops, *media)

    def read(self, numbers: Sequence[float]) -> SampleFlops:
        """What :meth:`numbers` told, of all samples together whose numbers were added up."""
        count = len(self._told)
        return SampleFlops(
            flops=dict(zip(self._told, numbers[:count], strict=True)),
            media=dict(zip(self._graph.encoders, map(round, numbers[count:]), strict=True)),
        )

    def _kind(self, encoder: str) -> str:
        return str(self._graph.descriptions[encoder].modality)


def any_encoder_trainable(graph: Graph) -> bool:
    """Whether gradients go through the language model, by what descriptions say."""
    return any(
        not (weights.frozen or weights.component in graph.modules[name].freeze)
        for name in graph.encoders
        for weights in graph.descriptions[name].parameters
    )


def training_flops(
    pieces: Sequence[FlopsEstimate], freeze: Collection[str], *, gradients: bool = False
) -> float:
    """Model FLOPs of forward and backward.

    A product with weights is made once forward, once for the gradients of the weights where they
    learn, and once for the gradients of what goes in where anything learns at this piece or before
    it. A product of activations is made once forward, and twice backward in the latter case.
    Recomputation is no work of the model. So a model that learns as a whole takes three times its
    forward, as is usual (A. Chowdhery et al., "PaLM", arXiv 2204.02311, appendix B): the gradients
    that the very first layer's input does not need are not subtracted.

    Args:
        pieces: Of one module, in the order of its forward.
        freeze: The parts that do not learn.
        gradients: What goes into the first piece wants gradients.
    """
    total = 0.0
    for piece in pieces:
        learns = _learns(piece, freeze)
        gradients = gradients or learns
        total += piece.weight_matmul * (1 + learns + gradients) + piece.activation_matmul * (
            1 + 2 * gradients
        )
    return total


def _learns(piece: FlopsEstimate, freeze: Collection[str]) -> bool:
    return not piece.frozen and piece.component not in freeze
