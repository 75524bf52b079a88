"""One loss for all modules: a token mean over the global batch, whoever holds the gradients.

The language model's last stage sums the losses of its tokens; gradients everywhere are of that
sum. Each module reduces them over its own groups, then every module divides by the same N: the
learned tokens of the whole global batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed.finalize_model_grads import (
    finalize_model_grads as finalize_module_gradients,
)

from mimo_core.contract import LANGUAGE
from mimo_core.model.mimo_model import RankMimoModel
from mimo_core.profile.recorder import span


def finalize_gradients(
    models: list[RankMimoModel],
    num_tokens: torch.Tensor | None = None,
    pg_collection: Any = None,
    force_all_reduce: bool = False,
) -> None:
    """Reduce and scale this rank's gradients. Called by the stock schedule on every rank.

    Args:
        models: The outer model, one.
        num_tokens: Learned tokens of this rank's microbatches; non-zero on the language model's
            last stage alone.
        pg_collection: Unused: the model knows its groups.
        force_all_reduce: All-reduce where the optimizer would reduce-scatter.
    """
    (model,) = models
    assert num_tokens is not None, "per-token loss is what all modules share"
    counts = model.has_language and model.groups[LANGUAGE].tp.rank() == 0
    with span("gradients", "finalize gradients"):
        # Before the world's sum: other ranks have sent theirs during backward.
        for reduction in model.reductions.values():
            reduction.finish(force_all_reduce)
        total = num_tokens.clone() if counts else torch.zeros_like(num_tokens)
        dist.all_reduce(total)
        model.num_learned_tokens = total
        for name, groups in model.groups.items():
            module = model.active(name)
            with _biases_kept_without(total, module):
                finalize_module_gradients(
                    [module], None, pg_collection=groups, force_all_reduce=force_all_reduce
                )
            module.scale_gradients(1.0 / total.clamp(min=1))  # type: ignore[operator]


@contextmanager
def _biases_kept_without(num_tokens: torch.Tensor, module: torch.nn.Module) -> Iterator[None]:
    """Keep the experts' biases where no token is learned.

    Core's finalizing moves them by the tokens that were routed, whether or not a step follows.

    Args:
        num_tokens: Learned tokens of the global batch, a scalar on the device.
        module: One of this rank's modules.
    """
    layers = list(module.modules())
    found = [getattr(layer, name, None) for layer in layers for name in ("expert_bias", "qb_beta")]
    biases = [(bias, bias.clone()) for bias in found if isinstance(bias, torch.Tensor)]
    yield
    for bias, before in biases:
        bias.copy_(torch.where(num_tokens > 0, bias, before))
