"""The stock loop's arguments, made from the recipe; the one place where flags are named."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import attrs

from mimo_core.contract import LANGUAGE
from mimo_core.errors import RecipeError
from mimo_core.planning.plan import Plan
from mimo_core.recipe import megatron_schema


@attrs.frozen(kw_only=True)
class Steps:
    """How many steps of what a run makes, beyond the recipe."""

    evaluation_iterations: int
    save: Path
    resume: bool
    init_from: Path | None
    """Checkpoints whose weights alone a new run starts with."""


def flags(plan: Plan, steps: Steps) -> dict[str, Any]:
    """Stock flags by name (underscores); ``True`` is a bare flag.

    The plan has refused those of the recipe that are the engine's.
    """
    train, recipe = plan.recipe.train, plan.recipe
    language = plan.graph.descriptions[LANGUAGE]
    grid = plan.layout.grids[LANGUAGE]
    owned: dict[str, Any] = {
        # Read for FLOP counts and sanity checks; the modules are built from their own options.
        "num_layers": language.num_layers,
        "hidden_size": language.hidden_size,
        "num_attention_heads": max(language.num_attention_heads, grid.tp),
        "seq_length": train.sequence_length,
        "max_position_embeddings": train.sequence_length,
        "tokenizer_type": "NullTokenizer",
        "vocab_size": plan.graph.tokenizer.size,
        # The loop counts microbatches with the language model's grid.
        "tensor_model_parallel_size": grid.tp,
        "pipeline_model_parallel_size": grid.pp,
        "context_parallel_size": grid.cp,
        "micro_batch_size": train.micro_batch_size,
        "global_batch_size": train.global_batch_size,
        "train_iters": train.iterations,
        "lr": train.learning_rate,
        "min_lr": train.min_learning_rate,
        "lr_warmup_iters": train.lr_warmup_iterations,
        "lr_decay_style": train.lr_decay_style,
        "weight_decay": train.weight_decay,
        "clip_grad": train.max_grad_norm,
        "seed": train.seed,
        # Where any module keeps main parameters, they are made anew after loading weights alone.
        "bf16": any(module.precision == "bf16" for module in plan.graph.modules.values()),
        "dataloader_type": "external",
        "use_distributed_optimizer": True,
        "calculate_per_token_loss": True,
        "eval_iters": steps.evaluation_iterations,
        "eval_interval": recipe.validation.interval or train.iterations,
        "save": str(steps.save) if recipe.checkpoint.enabled else None,
        "save_interval": recipe.checkpoint.save_interval or train.iterations,
        "ckpt_format": "torch_dist",
        # Every rank's random state has a file of its own: see checkpointing/rng_state.py.
        "no_save_rng": True,
        "no_load_rng": True,
        "load": str(steps.save) if steps.resume else None,
        "pretrained_checkpoint": None if steps.init_from is None else str(steps.init_from),
        # The schedule is the recipe's, also where a run goes on for longer than it was planned.
        "override_opt_param_scheduler": True,
        "log_interval": train.log_interval,
        # Would end the run at the first gradient that is not finite; see mimo_core.optimizer.
        "no_check_for_nan_in_loss_and_grad": True,
    }
    defaults: dict[str, Any] = {
        "no_gradient_accumulation_fusion": True,
        "no_masked_softmax_fusion": True,
        "rerun_mode": "disabled",
        # Any other layout can go on; false saves in less time and memory, for this layout alone.
        "dist_ckpt_optim_fully_reshardable": True,
    }
    assert not set(owned) - megatron_schema.ENGINE_FLAGS, set(owned) - megatron_schema.ENGINE_FLAGS
    return owned | defaults | recipe.megatron


def command_line(values: Mapping[str, Any]) -> list[str]:
    """Flags as the stock parser takes them."""
    line: list[str] = []
    for name, value in values.items():
        if value is None or value is False:
            continue
        line.append(f"--{name.replace('_', '-')}")
        if value is not True:
            line += [str(item) for item in value] if isinstance(value, list) else [str(value)]
    return line


def parse(plan: Plan, values: Mapping[str, Any]) -> Any:
    """Parsed and validated stock arguments of this rank, set as megatron's globals.

    The stock validation derives data parallelism from the world size; it is shown the language
    model's share of the world, and the whole of it afterwards.

    Raises:
        RecipeError: the stock parser does not know a flag of the ``megatron`` section, or does
            not accept its value.
    """
    from megatron.training import arguments, global_vars

    said = io.StringIO()
    with _command_line(command_line(_parsed(values))), redirect_stderr(said):
        try:
            args = arguments.parse_args()
        except SystemExit as end:
            message = said.getvalue().strip().rpartition("error: ")[2]
            refused = RecipeError(
                f"megatron's argument parser says: {message}",
                ("megatron",),
                code="megatron.refused-value",
            )
            raise plan.loaded.placed(refused) from end
    world_size = args.world_size
    args.world_size = plan.layout.grids[LANGUAGE].size
    arguments.validate_args(args)
    args.world_size = world_size
    args.padded_vocab_size = plan.graph.tokenizer.size
    # The tokenizer is the core's; building the stock one imports transformers.
    global_vars.set_global_variables(args, build_tokenizer=False)
    return args


def _parsed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without the fields of ``TransformerConfig`` that are no flags: modules alone read those."""
    from megatron.training.arguments import add_megatron_arguments

    parser = add_megatron_arguments(argparse.ArgumentParser())
    known = {text.removeprefix("--").replace("-", "_") for text in parser._option_string_actions}
    fields = megatron_schema.transformer_fields()
    return {
        name: value
        for name, value in values.items()
        if name not in _REFUSED and (name in known or name not in fields)
    }


_REFUSED = {"cross_entropy_loss_fusion", "cross_entropy_fusion_impl"}
"""Modules read them as fields. As flags the stock validation refuses TransformerEngine's loss,
which was unsound before its 2.20 (see ``mimo_core.model.loss``)."""


@contextmanager
def _command_line(line: list[str]) -> Any:
    kept, sys.argv = sys.argv, ["mimo-pretrain", *line]
    try:
        yield
    finally:
        sys.argv = kept
