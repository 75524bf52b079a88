"""Faults of language models; the models are in ``faulty_models``."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, ClassVar

import attrs
from fault import Fault
from mimo_plugin_nemotron import plugin as nemotron

from mimo_core import hookimpl


class LanguageFault(Fault):
    kind = "language"
    options: ClassVar[dict[str, Any]] = {
        "pattern": "*-",
        "hidden_size": 32,
        "vocabulary_multiple": 16,
    }


def _language(name: str) -> SimpleNamespace:
    """The plugin nemotron, its model of a class of ``faulty_models``."""

    @hookimpl
    def build_submodule(module, groups, platform):
        import faulty_models

        spec = nemotron.build_submodule(module, groups, platform)
        return dataclasses.replace(spec, module=getattr(faulty_models, name))

    return SimpleNamespace(**{**vars(nemotron), "build_submodule": build_submodule})


class ItLooksAhead(LanguageFault):
    plugin = _language("LooksAhead")
    expected = ("logits_are_as_described", "changes the logits of position")


class ItPutsOutTransposed(LanguageFault):
    plugin = _language("Transposed")
    expected = ("logits_are_as_described", "follow megatron's GPTModel: logits [B, S, V]")


class ItPutsOutMoreThanLogits(LanguageFault):
    plugin = _language("WithMore")
    expected = (
        "logits_are_as_described",
        "the forward of WithMore returned tuple of Tensor, NoneType, expected logits",
    )


class ItIsDeafToRows(LanguageFault):
    plugin = _language("Deaf")
    expected = ("placeholders_take_rows", "use decoder_input where it is given")


class ItForgetsWhereSamplesBegin(LanguageFault):
    plugin = _language("RunsOn")
    expected = ("packed_samples_are_as_alone", "begin anew at every bound of packed_seq_params")


@hookimpl
def _linear(module, lengths):
    (told,) = nemotron.estimate_flops(module, [1])
    return [
        attrs.evolve(told, weight_matmul=told.weight_matmul * sum(lengths), activation_matmul=0.0)
    ]


class ItsAttentionIsNotCounted(LanguageFault):
    plugin = SimpleNamespace(**{**vars(nemotron), "estimate_flops": _linear})
    expected = ("flops_are_those_of_the_forward", "for rows of 64 positions; its forward makes")


class ItIsFrozenDeaf(LanguageFault):
    plugin = _language("NoGradients")
    expected = ("what_is_frozen_stays", "passes no gradient to the rows of encoders")


@hookimpl
def _no_mask(module, samples, context):
    given = nemotron.provide_batch(module, samples, context)
    return {key: value for key, value in given.items() if key != "loss_mask"}


@hookimpl
def _no_padding(module, samples, context):
    given = nemotron.provide_batch(module, samples, context)
    return {key: value for key, value in given.items() if key != "padding_mask"}


class ItsBatchDoesNotSayWhatIsPadding(LanguageFault):
    options: ClassVar[dict[str, Any]] = {**LanguageFault.options, "pattern": "*E"}
    plugin = SimpleNamespace(**{**vars(nemotron), "provide_batch": _no_padding})
    expected = ("batches_are_as_asked", "without padding_mask")


class ItsBatchLacksTheMask(LanguageFault):
    plugin = SimpleNamespace(**{**vars(nemotron), "provide_batch": _no_mask})
    expected = ("batches_are_as_asked", "give what context.build_tokens(samples) holds")
