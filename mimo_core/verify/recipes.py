"""The two recipes that are compared: the judge's, on one rank, and the layout's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from mimo_core.contract import Grid
from mimo_core.recipe import Recipe
from mimo_core.weights.warm_start import META

_REDUCTION = ("overlap_grad_reduce", "ddp_bucket_size")
"""How gradients are summed over ranks; of one rank there are none."""
LEARNING_RATE = 1e-3
"""Most that is learned with. Adam moves an entry whose gradient is nothing but rounding by a whole
step, and later gradients tell of it: with 1e-2, rounding alone is beyond the bounds in three steps.
"""


def judges(recipe: Recipe, steps: int) -> Recipe:
    """The same model and samples on one rank.

    A microbatch holds the samples of one data-parallel rank of the layout's language model: a
    router's balancing loss is a mean over microbatches and ranks, each of which it sees as a whole.
    """
    recipe = measured(recipe, steps)
    return attrs.evolve(
        recipe,
        placement="colocated",
        modules={
            name: attrs.evolve(
                module,
                grid=Grid(),
                extra_warmup_microbatches=0,
                megatron=_without(module.megatron, META),
            )
            for name, module in recipe.modules.items()
        },
        megatron=_without(recipe.megatron, META, *_REDUCTION),
        checkpoint=attrs.evolve(recipe.checkpoint, save_at_start=True),
    )


def layouts(recipe: Recipe, steps: int, initial: Path) -> Recipe:
    """The recipe in its own layout, with the weights that the judge begins with.

    Args:
        recipe: What is verified.
        steps: Iterations.
        initial: Folder of checkpoints with the judge's of iteration 0.
    """
    recipe = measured(recipe, steps)
    return attrs.evolve(
        recipe,
        # The judge's, who began with those of the recipe's directories.
        modules={
            n: attrs.evolve(module, pretrained_weights=None) for n, module in recipe.modules.items()
        },
        checkpoint=attrs.evolve(recipe.checkpoint, init_from=str(initial.absolute())),
    )


def _without(megatron: Mapping[str, Any], *flags: str) -> dict[str, Any]:
    """Of the layout: its weights are loaded, where the judge's may begin here."""
    return {key: value for key, value in megatron.items() if key not in flags}


def _in_fp32(megatron: Mapping[str, Any]) -> dict[str, Any]:
    """Without CUDA graphs: in fp32 towers and experts have other kernels, of which some wait for
    the device, and both runs would have the same graphs."""
    return _without(megatron, *(name for name in megatron if name.startswith("cuda_graph_")))


def measured(recipe: Recipe, steps: int) -> Recipe:
    """A few steps in fp32 at the full learning rate or `LEARNING_RATE`, each of them saved."""
    rate = min(recipe.train.learning_rate, LEARNING_RATE)
    return attrs.evolve(
        recipe,
        modules={
            name: attrs.evolve(module, precision="fp32", megatron=_in_fp32(module.megatron))
            for name, module in recipe.modules.items()
        },
        train=attrs.evolve(
            recipe.train,
            precision="fp32",
            iterations=steps,
            learning_rate=rate,
            min_learning_rate=min(recipe.train.min_learning_rate, rate),
            lr_warmup_iterations=0,
            lr_decay_style="constant",
            log_interval=1,
        ),
        validation=attrs.evolve(recipe.validation, interval=0, num_samples=1, num_displayed=0),
        checkpoint=attrs.evolve(
            recipe.checkpoint, enabled=True, save_interval=1, save_frozen=True, directory=None
        ),
    )
