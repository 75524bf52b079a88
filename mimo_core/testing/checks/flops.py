"""FLOPs as the plugin tells them, and as the forward makes them. On one rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mimo_core.contract import FlopsEstimate, FreezePart, Sample
from mimo_core.testing.outcome import Finding, UndeclaredSupportError
from mimo_core.testing.rank_harness import Built, Rig

_FIX = (
    "correct the hook flops: 2 for each weight of a matrix and each position that meets it, and "
    "scores and values of attention (of causal attention those alone that are not masked); MFU is "
    "told by it. Where the model's own count is another than a CPU's (a scan), say by how much in "
    "flops_tolerance"
)


def forward(rig: Rig) -> Iterator[Finding]:
    """What the hook ``flops`` tells is what matrix products of the forward take."""
    name = rig.whole.module.plugin
    if not rig.bench.host.implements("estimate_flops", name):
        raise UndeclaredSupportError("flops: no hook of that name")
    if rig.platform.name != "cpu":
        raise UndeclaredSupportError(
            "flops: counted on CPUs, where all is made of torch's own operations"
        )
    rig.whole.model.eval()
    yield from (_language if rig.whole.module.is_language else _encoder)(rig.whole)


def _encoder(built: Built) -> Iterator[Finding]:
    """Of media one by one; of several in a batch, which may be padded, no more than is made."""
    kind = str(built.described.modality)
    media = built.bench.inner.media(kind)
    cases = [Sample(key=f"conformance/{at}", content=(one,)) for at, one in enumerate(media)]
    cases.append(Sample(key="conformance/all", content=tuple(media)))
    for sample in cases:
        shapes = [list(one.shape) for one in sample.media(kind)]
        batch = built.provide([sample])
        assert batch is not None
        given = built.on_device(batch)
        tower = built.by_part()["encoder"]
        made: dict[FreezePart, int] = {"encoder": _made(lambda: tower(**given))}  # noqa: B023
        made["projector"] = _made(lambda: built.encode(batch)) - made["encoder"]  # noqa: B023
        pieces = _told(built, [sample], [0])
        for part, count in made.items():
            told = _sum(pieces, part)
            padded = len(shapes) > 1 and told < count
            if not padded and not _near(built, told, count):
                yield Finding(
                    said=f"flops() of {built.module.plugin!r} tells {told:,.0f} for part {part!r} "
                    f"and media of shapes {shapes}; its forward makes {count:,}",
                    fix=_FIX,
                )


def _language(built: Built) -> Iterator[Finding]:
    """Of rows of one position, where masked and whole attention are one, and of whole rows."""
    batch = built.provide(built.samples()[-1:])
    assert batch is not None
    rows, whole = batch["labels"].shape
    counts = {}
    for length in (1, whole):
        cut = {name: tensor[:, :length] for name, tensor in batch.items()}
        counts[length] = _made(lambda: built.logits(cut))  # noqa: B023
    # A CPU makes all scores, of which a causal mask leaves (length + 1) / 2 a position.
    scores = counts[whole] - whole * counts[1]
    for length, due in ((1, [counts[1]]), (whole, [counts[whole] - scores / 2, counts[whole]])):
        told = _sum(_told(built, [], [length] * rows), "language")
        if not any(_near(built, told, count) for count in due):
            masked = f", {due[0]:,.0f} of them not masked" if len(due) > 1 else ""
            yield Finding(
                said=f"flops() of {built.module.plugin!r} tells {told:,.0f} for rows of {length} "
                f"position{'s' if length > 1 else ''}; its forward makes {due[-1]:,}{masked}",
                fix=_FIX,
            )


def _made(call: Callable[[], Any]) -> int:
    """FLOPs of the matrix products and convolutions that a call makes."""
    counter = FlopCounterMode(display=False)
    # Fused attention of a CPU is one operation that the counter does not know.
    with sdpa_kernel(SDPBackend.MATH), counter:
        call()
    return int(counter.get_total_flops())


def _told(
    built: Built, samples: Sequence[Sample], lengths: Sequence[int]
) -> Sequence[FlopsEstimate]:
    """What the plugin tells."""
    pieces: Sequence[FlopsEstimate] = built.bench.host.call_hook(
        "estimate_flops", built.module.plugin, module=built.module, samples=samples, lengths=lengths
    )
    return pieces


def _sum(pieces: Sequence[FlopsEstimate], part: FreezePart) -> float:
    return sum(
        piece.weight_matmul + piece.activation_matmul for piece in pieces if piece.component == part
    )


def _near(built: Built, told: float, made: float) -> bool:
    return abs(told - made) <= built.bench.subject.flops_tolerance * made
