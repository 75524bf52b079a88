"""Logits of a language model. On one rank."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from mimo_core.contract import MediaItem, Sample, Text
from mimo_core.testing.outcome import Finding, UndeclaredSupportError
from mimo_core.testing.rank_harness import Built, Rig
from mimo_core.testing.stub_plugins import ROWS


@torch.no_grad()
def logits(rig: Rig) -> Iterator[Finding]:
    """Logits ``[B, S, V]``, finite, of what came before alone; losses ``[B, S]``."""
    built = rig.whole
    built.model.eval()
    name = built.module.plugin
    batch = _batch(built, built.samples())
    got = built.logits(batch)
    due = [*batch["input_ids"].shape, _vocabulary(built)]
    if list(got.shape) != due:
        yield Finding(
            said=f"{name!r} puts out logits {list(got.shape)}; by its batch and "
            f"describe_module().vocab_size they should be {due}",
            fix="follow megatron's GPTModel: logits [B, S, V] where labels is None; tell in "
            "describe_module().vocab_size how many rows the embedding has, padding included",
        )
        return
    if not got.isfinite().all():
        yield Finding(said=f"{name!r} puts out logits that are not finite", fix=_NOT_FINITE)
        return
    losses = built.output(batch)
    if losses.shape != batch["labels"].shape or not losses.isfinite().all():
        yield Finding(
            said=f"{name!r} gives losses {list(losses.shape)}, finite: "
            f"{bool(losses.isfinite().all())}, for labels {list(batch['labels'].shape)}",
            fix="inherit compute_language_model_loss from megatron's LanguageModule",
        )
    yield from _looks_ahead(built, batch, got)


@torch.no_grad()
def placeholders(rig: Rig) -> Iterator[Finding]:
    """Rows of an encoder stand where its placeholders are, and are heard after them."""
    built = rig.whole
    built.model.eval()
    name = built.module.plugin
    batch, rows = rows_batch(built)
    got = [built.logits(batch, rows=each) for each in (rows, rows.flip(0))]
    place = (
        batch["input_ids"][0]
        .tolist()
        .index(built.graph.tokenizer.placeholder_id(built.graph.edges[0].placeholder))
    )
    gap = (got[0] - got[1]).abs().amax(dim=(0, 2))
    if not gap[place + ROWS] > 0:
        yield Finding(
            said=f"{name!r} says the same after other rows of an encoder: it does not read them",
            fix="use decoder_input where it is given; input_ids is None then",
        )
    if gap[:place].any():
        yield Finding(
            said=f"rows of an encoder change what {name!r} says before them",
            fix="mask attention so that a position sees itself and what came before",
        )


@torch.no_grad()
def packed(rig: Rig) -> Iterator[Finding]:
    """Samples that lie end to end do not see each other."""
    if not rig.whole.described.supports_packing:
        raise UndeclaredSupportError("packing: not declared in describe_module().supports_packing")
    padded, dense = rig.build(), rig.build(packing=True)
    samples = padded.samples()
    for built in (padded, dense):
        built.model.eval()
    alone = padded.logits(_batch(padded, samples))
    batch = dense.provide(samples)
    if batch is None or "lengths" not in batch:
        yield Finding(
            said=f"provide_batch of {dense.module.plugin!r} gives no 'lengths' where "
            "module.packing is set",
            fix="pass on context.build_tokens(samples).lengths as an int32 tensor",
        )
        return
    together = dense.logits(batch)[0].split(batch["lengths"].tolist())
    for at, (row, whole) in enumerate(zip(together, alone, strict=False)):
        gap = ((row - whole[: len(row)]).abs().max() / whole.abs().max()).item()
        if not gap <= rig.bench.subject.tolerance:
            yield Finding(
                said=f"{dense.module.plugin!r} says other things of sample {at} where samples lie "
                f"end to end: logits differ by {gap:.1e} of the largest",
                fix="let attention, convolutions and recurrent states begin anew at every bound of "
                "packed_seq_params, and count positions from each sample's own start; or do not "
                "declare describe_module().supports_packing",
            )
            return


def rows_batch(built: Built) -> tuple[dict[str, Any], torch.Tensor]:
    """A batch of one sample with the partner encoder's placeholders, and rows ``[N, H]``."""
    media = MediaItem(modality="rows", shape=(ROWS,), load=_never)
    before, after = Text(text="ab"), Text(text="cdef", is_target=True)
    batch = _batch(built, [Sample(key="conformance/rows", content=(before, media, after))])
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(ROWS, built.described.hidden_size, generator=generator)
    return batch, rows.to(built.platform.device)


_NOT_FINITE = "look for a division by 0, or weights that were never initialised"


def _looks_ahead(built: Built, batch: dict[str, Any], before: torch.Tensor) -> Iterator[Finding]:
    ids = batch["input_ids"].clone()
    place = 4
    ids[:, place] = (ids[:, place] + 1) % 100
    gap = (built.logits(batch | {"input_ids": ids}) - before).abs().amax(dim=(0, 2))
    if gap[:place].max() > 0:
        at = int(gap[:place].argmax())
        yield Finding(
            said=f"{built.module.plugin!r} looks ahead: another token at position {place} changes "
            f"the logits of position {at}",
            fix="mask attention so that a position sees itself and what came before; convolutions "
            "must pad in front",
        )
    if not gap[place] > 0:
        yield Finding(
            said=f"{built.module.plugin!r} does not hear its input: another token at position "
            f"{place} changes nothing there",
            fix="embed input_ids (or take decoder_input) and use it",
        )


def _vocabulary(built: Built) -> int:
    return built.described.vocab_size or built.module.vocabulary_size or 0


def _batch(built: Built, samples: list[Sample]) -> dict[str, Any]:
    batch = built.provide(samples)
    assert batch is not None
    return batch


def _never(_generator: np.random.Generator | None) -> np.ndarray:
    raise AssertionError("the partner's media are never loaded")
