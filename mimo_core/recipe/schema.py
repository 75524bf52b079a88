"""What a recipe may hold.

``Grid`` and ``Train`` are part of the contract with plugins and live there.
"""

from __future__ import annotations

from typing import Any, Literal

import attrs

from mimo_core.contract import FreezePart, Grid, Precision, TrainingConfig
from mimo_core.recipe import validators

Placement = Literal["non_colocated", "colocated"]


@attrs.frozen(kw_only=True)
class ModuleRecipe:
    """One module of the model: the language model, or an encoder."""

    plugin: str
    """Name of the plugin that brings the module; `mimo plugins list` shows those installed."""
    grid: Grid = attrs.field(factory=Grid)
    """Parallel sizes of the module; one rank by default."""
    freeze: tuple[FreezePart, ...] = ()
    """Parts that do not learn: `encoder` and `projector` of an encoder, `language` of the
    language model."""
    options: dict[str, Any] = attrs.field(factory=dict)
    """The plugin's own options; its README lists them."""
    pretrained_weights: str | None = None
    """Directory of a Hugging Face model (safetensors) whose weights a new run begins with, of this
    module alone or of a whole model; from the root or from the working directory."""
    precision: Precision | None = None
    """Of this module's weights and activations; `train.precision` by default."""
    packing: bool = False
    """Put the samples of a microbatch end to end, without padding between them; for modules whose
    plugin can."""
    extra_warmup_microbatches: int = 0
    """Microbatches that this encoder computes beyond those of 1F1B before it waits for the first
    gradients. Evens out microbatches of unlike work; each takes the memory of one more microbatch's
    activations, or next to none where the encoder is frozen."""
    lr_mult: float = 1.0
    """This module learns with `train.learning_rate` (and `min_learning_rate`) times this."""
    wd_mult: float = 1.0
    """This module decays with `train.weight_decay` times this."""
    megatron: dict[str, Any] = attrs.field(factory=dict)
    """Fields of Megatron's `TransformerConfig` for this module alone, such as
    `recompute_granularity`, that neither the engine nor the plugin sets."""
    wrappers: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    """Plugins that change this module from outside, such as adapters: a mapping of their names to
    their own options, the innermost first. `mimo plugins list` shows what each wraps."""


@attrs.frozen(kw_only=True)
class DataRecipe:
    """Where the samples come from."""

    plugin: str
    """Name of the plugin that brings the dataset."""
    options: dict[str, Any] = attrs.field(factory=dict)
    """The plugin's own options; its README lists them."""
    overlength: Literal["error", "truncate"] = "error"
    """A sample of more than `train.sequence_length` positions is an error that ends the run, or its
    text is truncated. Media are never cut: too many of them stop the run in either case."""
    num_workers: int = 0
    """Processes on each rank that prepare batches ahead; 0 prepares them in the rank itself."""
    wrappers: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    """Plugins that change the dataset from outside: a mapping of their names to their own options,
    the innermost first."""


@attrs.frozen(kw_only=True)
class TokenizerRecipe:
    """Text to token ids, and placeholders to theirs."""

    path: str | None = None
    """Directory of a Hugging Face tokenizer (`tokenizer.json`), from the root or from the working
    directory; without it, bytes are tokens."""


@attrs.frozen(kw_only=True)
class ValidationRecipe:
    """Looking at the held-out split."""

    interval: int = 0
    """Iterations between evaluations; 0 evaluates at the end only."""
    num_samples: int | None = None
    """Held-out samples that are looked at; the whole split by default."""
    num_displayed: int = 6
    """Samples whose answer is shown on the screen at the end."""


@attrs.frozen(kw_only=True)
class CheckpointRecipe:
    """Saving the run, and going on from where it stopped."""

    enabled: bool = True
    """Save at all; a run that only measures need not."""
    save_interval: int = 0
    """Iterations between checkpoints; 0 saves at the end only."""
    save_at_start: bool = False
    """Save the weights that a run begins with too, as iteration 0."""
    save_frozen: bool = True
    """Save frozen weights, too. `false` leaves out those that came from a directory
    (`modules.NAME.pretrained_weights`) or from `init_from`: they are read there again when the run
    resumes, is exported, or initialises another run."""
    directory: str | None = None
    """Where checkpoints are; `checkpoints` by default. A relative path is below the run folder."""
    init_from: str | None = None
    """A run folder, or a folder of checkpoints: a new run takes the weights of the newest one
    there, and nothing else of it."""


@attrs.frozen(kw_only=True)
class ProfileRecipe:
    """A timeline of one iteration: what every rank did, and whom it waited for."""

    enabled: bool = False
    """Record one, as `mimo-pretrain --profile` does; it is written to `profile/` in the run
    folder."""
    step: int = 3
    """Which of the iterations that the command runs, 1 the first; the first ones warm caches up."""
    torch_profiler: bool = False
    """Let torch's profiler write the operators and kernels of the iteration too, a file a rank.
    It slows down what it looks at."""


@attrs.frozen(kw_only=True)
class HeartbeatRecipe:
    """Noticing a rank that hangs while others wait for it. It ends the run as any failure does."""

    timeout_seconds: float = 60.0
    """Seconds without a heartbeat of a rank's process: it is stopped, or its machine hangs."""
    stall_seconds: float = 540.0
    """Seconds in which a rank makes no progress while another waits for it in a collective. Above
    600 the collective fails first, and names no rank."""


@attrs.frozen(kw_only=True)
class Recipe:
    """A run.

    Raises:
        RecipeError: Values that do not fit, a line for each.
    """

    modules: dict[str, ModuleRecipe]
    """The modules by name, in the order of their ranks. One is named `language`; every other is
    an encoder that feeds it."""
    data: DataRecipe
    """Where the samples come from."""
    train: TrainingConfig
    """Sizes and schedule of the training."""
    tokenizer: TokenizerRecipe = attrs.field(factory=TokenizerRecipe)
    """Text to token ids; bytes by default."""
    validation: ValidationRecipe = attrs.field(factory=ValidationRecipe)
    """Looking at the held-out split."""
    checkpoint: CheckpointRecipe = attrs.field(factory=CheckpointRecipe)
    """Saving the run, and going on from where it stopped."""
    profile: ProfileRecipe = attrs.field(factory=ProfileRecipe)
    """A timeline of one iteration."""
    heartbeat: HeartbeatRecipe = attrs.field(factory=HeartbeatRecipe)
    """Noticing a rank that hangs."""
    placement: Placement = "non_colocated"
    """`non_colocated`: every module has ranks of its own. `colocated`: all share one rank, the same
    run without messages; what `mimo verify` judges by."""
    megatron: dict[str, Any] = attrs.field(factory=dict)
    """Stock Megatron flags passed through, without the leading dashes and with underscores. One
    that is a field of `TransformerConfig` acts on every module that does not set it itself."""

    def __attrs_post_init__(self) -> None:
        problems = list(validators.whole(self))
        if problems:
            raise validators.RecipeValidationError.of(
                attrs.evolve(problem, place=".".join(map(str, problem.path)))
                for problem in problems
            )
