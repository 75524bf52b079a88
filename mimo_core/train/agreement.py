"""Ranks agree on the samples before they train: what differs would only show as wrong losses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch.distributed as dist

from mimo_core.plan import Plan


def compare_samples(plan: Plan, splits: Mapping[str, tuple[int, str | None]]) -> None:
    """Compare what every rank is about to read. Called by all ranks.

    Args:
        plan: What to run.
        splits: Length and digest of each split on this rank.

    Raises:
        ValueError: datasets or tokenizers differ; says which ranks have what. Raised on all ranks.
    """
    mine = {f"{split} split": facts for split, facts in splits.items()}
    mine["tokenizer"] = (plan.graph.tokenizer.size, plan.graph.tokenizer.digest)
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, mine)
    for what in mine:
        found = Counter(one[what] for one in told)
        if len(found) > 1:
            usual = found.most_common(1)[0][0]
            others = [rank for rank, one in enumerate(told) if one[what] != usual]
            first = told[others[0]][what]
            raise ValueError(
                f"ranks do not read the same: of the {what}, most have {_shown(usual)}, but "
                f"{', '.join(plan.layout.label(rank) for rank in others)} have {_shown(first)}; "
                "give all machines the same files"
            )


def _shown(value: tuple[int, str | None]) -> str:
    size, digest = value
    return f"{size} entries" + (f" (digest {digest[:12]})" if digest else "")
