"""The hooks: all that the core asks of a plugin.

A hook for a module is answered by that module's own plugin alone (``data`` by the dataset's);
other plugins can only wrap it, where the recipe names them (``modules.NAME.wrappers``,
``data.wrappers``). Hooks that run before the ranks exist, or that the plan asks,
must not import torch: import it inside the function.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pluggy

from mimo_core.contract import (
    BatchContext,
    Dataset,
    DatasetConfig,
    Edge,
    EncoderSpec,
    FlopsEstimate,
    ModuleConfig,
    ModuleDescription,
    Platform,
    Sample,
    Split,
)
from mimo_core.plugins.weight_map import ParamMappings

if TYPE_CHECKING:
    from megatron.core.process_groups_config import ProcessGroupCollection
    from megatron.core.transformer.spec_utils import ModuleSpec

PROJECT = "mimo"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""The mark of a hook: ``@hookimpl`` above a function that answers it, ``@hookimpl(wrapper=True)``
above one that wraps it."""


@hookspec(firstresult=True)
def options_class() -> type:  # type: ignore[empty-body]
    """The plugin's attrs class of options; its fields are the recipe's ``options``.

    A run that goes on must have the options that it was saved with, but for fields with
    ``metadata={"changes_model": False}``: they say how something is computed, and nothing of what
    is saved depends on them.

    Asked in the launcher and on every rank, once for each use of the plugin. A plugin without
    this hook takes no options.
    """


@hookspec(firstresult=True)
def describe_module(module: ModuleConfig) -> ModuleDescription:  # type: ignore[empty-body]
    """The module in numbers, without torch.

    Asked in the launcher (plan, validation) and on every rank (data path).
    """


@hookspec(firstresult=True)
def module_edges(module: ModuleConfig, modules: Mapping[str, ModuleConfig]) -> Sequence[Edge]:  # type: ignore[empty-body]
    """The edges that this module wants, each with the symbolic name of its placeholder.

    Asked for every encoder in the launcher and on every rank, before process groups exist. A plugin
    of language models leaves it out; of one that is both, the language model gives none.
    """


@hookspec(firstresult=True)
def rng_prefix(module: ModuleConfig) -> str:  # type: ignore[empty-body]
    """The namespace of the module's random numbers: its seeds come from it.

    Asked on every rank, before process groups exist; distinct for each module.
    """


@hookspec(firstresult=True)
def build_submodule(
    module: ModuleConfig, groups: ProcessGroupCollection | None, platform: Platform
) -> EncoderSpec | ModuleSpec:
    """The parts of the module: the ``ModuleSpec`` of the language model, or an ``Encoder``.

    Asked on every rank for every module; ``groups`` is ``None`` outside the module's grid, where
    only configurations are read and nothing is built. The language model's forward follows
    ``megatron.core.models.gpt.GPTModel``; its spec carries ``config`` in ``params``.
    """


@hookspec(firstresult=True)
def provide_batch(
    module: ModuleConfig, samples: Sequence[Sample], context: BatchContext
) -> dict[str, Any] | None:
    """The module's input for these samples, as CPU tensors.

    Asked on every pipeline stage of an encoder: keyword arguments of the tower's forward, or, on
    all stages alike, ``None`` when these samples have nothing for it. Where ``context.first_stage``
    is false it decodes nothing and gives what the stage needs beside its ``hidden_states``, told
    from the samples' metadata; ``{}`` where that is nothing.

    Asked on the first and last stages of the language model (``input_ids``, ``labels``,
    ``loss_mask``, ``position_ids``, each ``[B, S]``). Where the language model packs, on all its
    stages, with ``lengths`` (int32 ``[samples]``) besides. Runs in DataLoader workers when the
    recipe has any.
    """


@hookspec(firstresult=True)
def estimate_flops(  # type: ignore[empty-body]
    module: ModuleConfig, samples: Sequence[Sample], lengths: Sequence[int]
) -> Sequence[FlopsEstimate]:
    """Model FLOPs of the module's forward for these samples, without torch.

    Asked for every module on the language model's last pipeline stage, for each slice of a training
    microbatch (in DataLoader workers when the recipe has any), and by the conformance kit. Of the
    whole module, its projector included, whatever its grid is; in pieces, those first that the
    forward computes first. An encoder tells by the samples' metadata, a language model by
    ``lengths`` alone: the positions that each sample takes in its sequence, without padding.

    Counted is what the model needs: neither padding, nor what a kernel computes besides (the masked
    half of causal attention), nor recomputation; matrix products, convolutions and scans alone, as
    usual. ``docs/operators.md`` says what is made of it. A plugin without this hook has neither
    FLOPs nor MFU in the report.
    """


@hookspec(firstresult=True)
def param_mappings(module: ModuleConfig) -> ParamMappings:  # type: ignore[empty-body]
    """How the module's weights are named in a Hugging Face directory, without torch.

    Asked where a recipe says ``modules.NAME.pretrained_weights`` (in the launcher, by the plan and
    on every rank), by the plan for every module with wrappers, and by ``mimo export``. One
    declaration tells what is missing or unexpected in a directory, loads and saves. A plugin
    without this hook begins fresh.
    """


@hookspec(firstresult=True)
def build_dataset(data: DatasetConfig, split: Split) -> Dataset:  # type: ignore[empty-body]
    """The samples of one split: the same, in the same order, on every rank.

    Asked on every rank. Samples carry metadata; media are decoded only by the first pipeline stage
    of the encoder that reads them.
    """


@hookspec(firstresult=True)
def preview_samples(data: DatasetConfig) -> Sequence[Sample]:  # type: ignore[empty-body]
    """A few samples that are typical of the dataset, its longest among them, without torch.

    Asked by the plan, to tell how many positions of the sequence each source takes and whether
    they fit. Told from the options, or by reading the first few: it must be instant. The samples
    need not be of the dataset; their media are never loaded. A plugin without this hook leaves
    that part of the plan out.
    """


@hookspec(firstresult=True)
def preview_notes(data: DatasetConfig) -> Sequence[str]:  # type: ignore[empty-body]
    """What a person should know of the data, without torch: a line each, shown by the plan and when
    a run starts.

    Asked by the plan, with ``preview``. For example the fields of a file that nothing reads; where
    no previewed sample has media for an encoder, the lines follow the error that says so. Must be
    instant. A plugin without this hook has no notes.
    """
