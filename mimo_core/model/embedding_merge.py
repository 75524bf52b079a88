"""Where rows of encoders go in the language model's sequences, told on the CPU.

megatron-core 0.19's ``MimoModel`` finds the placeholders on the device: boolean masks and their
counts (``nonzero``, ``.item()``), each of which holds the host until the device has done all that
is queued. The ids come from the CPU, so the places are looked up there.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mimo_core.data.row_counts import RowCounts
from mimo_core.errors import PluginError

ScatterIndices = Mapping[str, torch.Tensor]
"""By encoder: where each of its rows goes in sequences laid out ``[S * B]``, int64 ``[N]``."""


def placeholder_indices(
    input_ids: torch.Tensor, placeholders: Mapping[str, int], rows: RowCounts
) -> ScatterIndices:
    """Places of the rows of a microbatch. Called on the language model's first stage.

    Args:
        input_ids: ``[B, S]``, on the CPU.
        placeholders: By encoder: the id that stands where its rows go.
        rows: By encoder: rows of each sample, of those encoders that feed this rank.

    Returns:
        On the CPU; row after row of the samples, as encoders put them out.

    Raises:
        PluginError: the sequences have another number of placeholders than the samples have rows.
    """
    samples = len(input_ids)
    places = {}
    for encoder, counts in rows.items():
        sample, position = (input_ids == placeholders[encoder]).nonzero(as_tuple=True)
        if len(sample) != sum(counts):
            raise PluginError(
                f"the language model's input_ids have {len(sample)} placeholders of {encoder!r}, "
                f"but its samples have {list(counts)} rows; provide_batch must give the ids of "
                "context.build_tokens(samples) as they are",
                code="plugin.wrong-batch",
                encoder=encoder,
                placeholders=len(sample),
                rows=tuple(counts),
            )
        places[encoder] = position * samples + sample
    return places


def scatter_embeddings(
    text: torch.Tensor, rows: Mapping[str, torch.Tensor], places: ScatterIndices
) -> torch.Tensor:
    """The embeddings of whole sequences: rows of encoders over those of their placeholders.

    Args:
        text: Embeddings of all ids, ``[S, B, H]``.
        rows: By encoder ``[N, H]``, in the precision of ``text``.
        places: Of the rows, on their device.

    Returns:
        ``[S, B, H]``.
    """
    flat = text.flatten(0, 1)
    for encoder, tensor in rows.items():
        flat = flat.index_copy(0, places[encoder], tensor)
    return flat.view(text.shape)
