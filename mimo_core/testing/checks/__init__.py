"""What the kit checks: pure functions that say what a plugin does wrong.

A check without ranks takes a :class:`~mimo_core.testing.fixtures.Bench`; one on ranks takes a
:class:`~mimo_core.testing.rank_harness.Rig`, on every rank. Both give findings, or raise
:class:`~mimo_core.testing.outcome.UndeclaredSupportError` where the plugin does not claim it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import attrs

from mimo_core.testing.conformance_case import Kind, Subject
from mimo_core.testing.outcome import Finding

ALL: frozenset[Kind] = frozenset({"encoder", "language", "dataset", "wrapper"})
MODULES: frozenset[Kind] = frozenset({"encoder", "language", "wrapper"})


@attrs.frozen
class Check:
    """One expectation."""

    name: str
    """A sentence, as a test's name."""
    place: str
    """``module:function`` below this package; imported where it runs."""
    kinds: frozenset[Kind]
    ranks: int = 0
    """0: where the tests run, without torch; else in a launch of so many ranks."""
    needs_options: bool = True
    """Whether it uses the plugin, for which options must fit."""

    @property
    def title(self) -> str:
        """The name in words."""
        return self.name.replace("_", " ")

    def __call__(self, *given: Any) -> Iterator[Finding]:
        module, _, name = self.place.partition(":")
        function = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        yield from function(*given)


_PLAIN: frozenset[Kind] = frozenset({"encoder", "language"})
_ENCODER: frozenset[Kind] = frozenset({"encoder"})
_LANGUAGE: frozenset[Kind] = frozenset({"language"})
_DATASET: frozenset[Kind] = frozenset({"dataset"})

CHECKS: tuple[Check, ...] = (
    Check("hooks_and_signatures", "hooks:signatures", ALL, needs_options=False),
    Check("it_says_the_contract_it_was_written_for", "hooks:contract", ALL, needs_options=False),
    Check("listing_imports_nothing_heavy", "isolated_import:listing", ALL, needs_options=False),
    Check("planning_needs_no_torch", "isolated_import:planning", ALL),
    Check("options_come_back_from_yaml", "options:round_trip", ALL),
    Check("every_option_is_documented", "options:documented", ALL, needs_options=False),
    Check("the_description_is_sound", "description:sound", MODULES),
    Check("two_modules_of_it_stay_apart", "description:apart", MODULES),
    Check("every_rank_gets_the_same_answers", "isolated_import:same_answers", ALL),
    Check("splits_can_be_built", "datasets:lengths", _DATASET),
    Check("samples_are_samples", "datasets:samples", _DATASET),
    Check("sample_keys_are_unique_and_splits_disjoint", "datasets:keys", _DATASET),
    Check("media_are_as_their_metadata_say", "datasets:media", _DATASET),
    Check("every_process_gets_the_same_samples", "isolated_import:same_samples", _DATASET),
    Check("the_dataset_goes_to_worker_processes", "datasets:pickled", _DATASET),
    Check("the_preview_shows_the_longest", "datasets:preview", _DATASET),
    Check("it_builds_inside_and_outside_its_grid", "building:builds", MODULES, 1),
    Check("parameters_are_as_described", "building:parameters", _PLAIN, 1),
    Check("the_seed_alone_makes_the_weights", "building:seeded", MODULES, 1),
    Check("batches_are_as_asked", "batches:provided", MODULES, 1),
    Check("rows_are_as_described", "encoding:rows", _ENCODER, 1),
    Check("logits_are_as_described", "logits:logits", _LANGUAGE, 1),
    Check("placeholders_take_rows", "logits:placeholders", _LANGUAGE, 1),
    Check("packed_samples_are_as_alone", "logits:packed", _LANGUAGE, 1),
    Check("flops_are_those_of_the_forward", "flops:forward", _PLAIN, 1),
    Check("forward_twice_gives_the_same", "gradients:repeatable", MODULES, 1),
    Check("gradients_reach_every_parameter", "gradients:gradients", MODULES, 1),
    Check("bf16_stays_bf16", "gradients:bf16", MODULES, 1),
    Check("what_is_frozen_stays", "gradients:frozen", MODULES, 1),
    Check("the_checkpoint_holds_everything", "checkpoints:complete", MODULES, 1),
    Check("a_loaded_checkpoint_is_the_same_model", "checkpoints:loaded", MODULES, 1),
    Check("weights_go_out_and_come_back", "weights:there_and_back", MODULES, 1),
    Check("every_tensor_has_a_name_in_files", "weights:named", MODULES, 1),
    Check("ranks_without_media_do_not_hang", "parallel:some_without_media", _ENCODER, 2),
    Check("copies_save_each_tensor_once", "parallel:copies", MODULES, 2),
    Check("tp_2_is_as_tp_1", "parallel:tensor", MODULES, 2),
)
"""In the order in which they are best read: what fails first explains what fails later."""


def checks_of(subject: type[Subject]) -> tuple[Check, ...]:
    """The checks of a subject's kind; of what it wraps, where that is a dataset."""
    kinds = {subject.kind}
    wrapped = subject.wraps
    if wrapped is not None and wrapped.kind == "dataset":
        kinds = {"dataset"}
    return tuple(check for check in CHECKS if kinds & check.kinds)
