"""Plugins with one fault each, the check that must find it, and words of what it must say.

A class names its tower in ``faulty_towers`` where that is the fault.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, ClassVar

import attrs
import good_plugins  # noqa: F401 - the good ones run beside the faults
import numpy as np
from good_plugins import (
    Options,
    Pictures,
    dataset,
    description,
    encoder,
    rows,
    weights,
)
from mimo_plugin_nemotron import plugin as nemotron

from mimo_core import LANGUAGE, Edge, Media, Sample, Text, hookimpl
from mimo_core.testing import Subject

Expected = tuple[str, str]
"""Name of the check; words of its message."""


class Fault(Subject):
    kind = "encoder"
    patience = 8.0
    expected: ClassVar[Expected]


def _tower(name: str) -> Any:
    @hookimpl
    def build_submodule(module, groups, platform):
        import faulty_towers
        import good_tower

        return good_tower.encoder(module, groups, getattr(faulty_towers, name))

    return build_submodule


def _describe(**changes: Any) -> Any:
    @hookimpl
    def describe(module):
        return description(module, **changes)

    return describe


# Hooks, options, descriptions
@hookimpl
def _misspelt(modul):
    return "x."


class AnArgumentIsMisspelt(Fault):
    plugin = encoder(rng_prefix=_misspelt)
    expected = ("hooks_and_signatures", "Did you mean 'module'? Name what it needs of rng_prefix")


class AHookLacksItsMark(Fault):
    plugin = encoder(rng_prefix=lambda module: "x.")
    expected = ("hooks_and_signatures", "lacks the mark @mimo_core.hookimpl")


class AHookIsMissing(Fault):
    plugin = encoder(provide_batch=None)
    expected = ("hooks_and_signatures", "does not implement provide_batch")


class ItStatesNoContract(Fault):
    plugin = encoder(mimo_contract=None)
    expected = (
        "it_says_the_contract_it_was_written_for",
        "states no contract version; write mimo_contract =",
    )


@attrs.define(kw_only=True)
class _Mutable:
    hidden_size: int = 16
    """Width."""
    patch_size: int = 8
    """Pixels."""


@attrs.frozen(kw_only=True)
class _Bare(Options):
    depth: int = 1


@attrs.frozen(kw_only=True)
class _Shifting(Options):
    depth: int = attrs.field(default=1, converter=lambda value: value + 1)
    """Layers."""


def _options(cls: type) -> Any:
    @hookimpl
    def options():
        return cls

    return options


class OptionsCanBeChanged(Fault):
    plugin = encoder(options=_options(_Mutable))
    expected = ("options_come_back_from_yaml", "write @attrs.frozen(kw_only=True) above _Mutable")


class OptionsChangeInYaml(Fault):
    plugin = encoder(options=_options(_Shifting))
    options: ClassVar[dict[str, Any]] = {"depth": 1}
    expected = ("options_come_back_from_yaml", "depth: 2 becomes 3")


class AnOptionIsNotDocumented(Fault):
    plugin = encoder(options=_options(_Bare))
    expected = ("every_option_is_documented", "without a word of what they do: depth")


class PositionsAreDecoded(Fault):
    plugin = encoder(
        describe=_describe(positions=lambda media: [one.load(None).size for one in media])
    )
    expected = ("the_description_is_sound", "count from Media.shape alone")


class PositionsAreFewer(Fault):
    plugin = encoder(describe=_describe(positions=lambda media: [4 for _ in media[:1]]))
    expected = ("the_description_is_sound", "a whole number above 0 for each medium")


class ItOwnsWhatThereIsNot(Fault):
    plugin = encoder(describe=_describe(owns=frozenset({"num_layer"})))
    expected = ("the_description_is_sound", "owns num_layer, which TransformerConfig does not have")


@hookimpl
def _one_prefix(module):
    return "encoder."


class RandomNumbersAreShared(Fault):
    plugin = encoder(rng_prefix=_one_prefix)
    expected = ("two_modules_of_it_stay_apart", "must make it from module.name")


@hookimpl
def _one_placeholder(module, modules):
    return [Edge(source=module.name, target=LANGUAGE, placeholder="<image>")]


class PlaceholdersAreShared(Fault):
    plugin = encoder(module_edges=_one_placeholder)
    expected = ("two_modules_of_it_stay_apart", "use the same placeholder '<image>'")


# One rank
@hookimpl
def _touches_groups(module, groups, platform):
    import good_tower

    assert groups.tp.size() > 0
    return good_tower.encoder(module, groups)


class GroupsAreTouchedOutside(Fault):
    plugin = encoder(build_submodule=_touches_groups)
    expected = ("it_builds_inside_and_outside_its_grid", "must not touch groups where they are")


@hookimpl
def _own_config(module, groups, platform):
    import good_tower
    from megatron.core.transformer import TransformerConfig

    parts = good_tower.encoder(module, groups)
    config = TransformerConfig(num_layers=1, hidden_size=16, num_attention_heads=2)
    return attrs.evolve(parts, config=config)


class TheConfigIsItsOwn(Fault):
    plugin = encoder(build_submodule=_own_config)
    expected = ("it_builds_inside_and_outside_its_grid", "mimo_core.building.transformer_config")


class ParametersAreMiscounted(Fault):
    plugin = encoder(build_submodule=_tower("Unused"))
    expected = ("parameters_are_as_described", "has 4,115 parameters, but describe().weights tells")


class ItSeedsItself(Fault):
    plugin = encoder(build_submodule=_tower("SeedsItself"))
    expected = ("the_seed_alone_makes_the_weights", "leave out torch.manual_seed")


class ItIsNotSeeded(Fault):
    plugin = encoder(build_submodule=_tower("SeedsNothing"))
    expected = ("the_seed_alone_makes_the_weights", "built twice from one seed has other weights")


class ItHasASeedOfItsOwn(Fault):
    plugin = encoder(build_submodule=_tower("OneSeed"))
    expected = ("the_seed_alone_makes_the_weights", "the same weights with every seed of the run")


@hookimpl
def _always_a_batch(module, samples, context):
    import good_tower
    import torch

    arrays = context.load(samples)
    patch = 3 * module.options.patch_size**2
    return good_tower.batch(module, arrays) if arrays else {"patches": torch.zeros(0, patch)}


class TextAloneIsEncoded(Fault):
    plugin = encoder(provide_batch=_always_a_batch)
    expected = ("batches_are_as_asked", "gives a batch of patches for text alone")


@hookimpl
def _arrays(module, samples, context):
    arrays = context.load(samples)
    return {"patches": np.stack([array.mean() for array in arrays])} if arrays else None


class BatchesAreArrays(Fault):
    plugin = encoder(provide_batch=_arrays)
    expected = ("batches_are_as_asked", "torch.from_numpy")


@hookimpl
def _random_batch(module, samples, context):
    import good_tower
    import torch

    arrays = context.load(samples)
    if not arrays:
        return None
    given = good_tower.batch(module, arrays)
    return {"patches": given["patches"] + torch.rand(given["patches"].shape)}


class BatchesAreAugmented(Fault):
    plugin = encoder(provide_batch=_random_batch)
    expected = ("batches_are_as_asked", "gives another batch for the same samples")


class RowsAreFewer(Fault):
    plugin = encoder(build_submodule=_tower("DropsARow"))
    expected = ("rows_are_as_described", "puts out rows [15, 32] for media of shapes [[32, 32]]")


class RowsAreMiscounted(Fault):
    plugin = encoder(
        describe=_describe(positions=lambda media: [rows(media[0].shape, 8) for _ in media])
    )
    expected = ("rows_are_as_described", "mend describe().positions or the tower")


class RowsAreWide(Fault):
    plugin = encoder(build_submodule=_tower("Wide"))
    expected = ("rows_are_as_described", "but describe().width is 16")


class RowsAreNotFinite(Fault):
    plugin = encoder(build_submodule=_tower("NotFinite"))
    expected = ("rows_are_as_described", "rows that are not finite")


class Bf16BecomesFloat32(Fault):
    plugin = encoder(build_submodule=_tower("Float32"))
    expected = ("bf16_stays_bf16", "puts out torch.float32 where the module's precision")


class AParameterIsUnused(Fault):
    plugin = encoder(build_submodule=_tower("Unused"))
    expected = ("gradients_reach_every_parameter", "no gradient reaches encoders.tower.spare")


class TheGradientStops(Fault):
    plugin = encoder(build_submodule=_tower("Detached"))
    expected = ("gradients_reach_every_parameter", "encoders.tower.embed.weight")


class ForwardDrawsElsewhere(Fault):
    plugin = encoder(build_submodule=_tower("Noisy"))
    expected = ("forward_twice_gives_the_same", "draw from torch's default generator")


class AFrozenTowerCounts(Fault):
    plugin = encoder(build_submodule=_tower("Counts"))
    expected = ("what_is_frozen_stays", "changed in a forward: seen")


class AFrozenTowerLearns(Fault):
    plugin = encoder(build_submodule=_tower("LearnsAllTheSame"))
    expected = ("what_is_frozen_stays", "learns all the same: embed.weight")


class WhatDecidesIsNotSaved(Fault):
    plugin = encoder(build_submodule=_tower("DrawnTable"))
    expected = ("a_loaded_checkpoint_is_the_same_model", "but puts out something else")


class AParameterIsNotSaved(Fault):
    plugin = encoder(build_submodule=_tower("Forgets"))
    expected = ("the_checkpoint_holds_everything", "encoders.tower.embed.bias")


class ABufferIsNotSaved(Fault):
    plugin = encoder(build_submodule=_tower("ForgetsABuffer"))
    expected = ("the_checkpoint_holds_everything", "would not hold encoders.tower.seen")


@hookimpl
def _map_lacks_one(module):
    given = weights(module)
    return attrs.evolve(given, rules=given.rules[1:])


class AWeightHasNoName(Fault):
    plugin = encoder(weight_map=_map_lacks_one)
    expected = ("every_tensor_has_a_name_in_files", "encoders.tower.embed.weight")


@hookimpl
def _map_computes(module):
    given = weights(module)
    first = attrs.evolve(
        given.rules[0],
        load=lambda tensors: [tensor * 3 for tensor in tensors],
        save=lambda tensors: [tensor / 3 for tensor in tensors],
    )
    return attrs.evolve(given, rules=(first, *given.rules[1:]))


class AConversionComputes(Fault):
    plugin = encoder(weight_map=_map_computes)
    expected = ("weights_go_out_and_come_back", "is not x in the rule for embed.weight")


@hookimpl
def _map_names_twice(module):
    given = weights(module)
    last = attrs.evolve(given.rules[-1], files={"up.weight": given.rules[-1].stored[0].shape})
    return attrs.evolve(given, rules=(*given.rules[:-1], last))


class ANameIsGivenTwice(Fault):
    plugin = encoder(weight_map=_map_names_twice)
    expected = ("every_tensor_has_a_name_in_files", "several tensors of one name in files: up.weig")


class TheProcessEnds(Fault):
    plugin = encoder(build_submodule=_tower("EndsTheProcess"))
    expected = ("forward_twice_gives_the_same", "the process ended in this check")


# Two ranks
class CopiesDiffer(Fault):
    plugin = encoder(build_submodule=_tower("DiffersByRank"))
    expected = ("copies_save_each_tensor_once", "never from the rank")


class CopiesAllSave(Fault):
    plugin = encoder(build_submodule=_tower("SavesOnEveryCopy"))
    expected = ("copies_save_each_tensor_once", "replica_id must be 0 on exactly one")


class ASumIsMissing(Fault):
    plugin = encoder(build_submodule=_tower("LacksASum"))
    expected = ("tp_2_is_as_tp_1", "puts out something else with tp 2")


class ASumOfGradientsIsMissing(Fault):
    plugin = encoder(build_submodule=_tower("LacksASumOfGradients"))
    expected = ("tp_2_is_as_tp_1", "the gradient of modality_submodules.encoder.encoders.tower.emb")


class ASliceIsSavedAsTheWhole(Fault):
    plugin = encoder(build_submodule=_tower("SavesItsPartAsTheWhole"))
    expected = ("tp_2_is_as_tp_1", "takes the axis of each parameter that is split over tp")


@hookimpl
def _no_split(module):
    told = description(module)
    whole = tuple(attrs.evolve(one, split=frozenset()) for one in told.weights)
    return attrs.evolve(told, weights=whole)


class WhatTpDividesIsNotTold(Fault):
    plugin = encoder(describe=_no_split)
    expected = ("tp_2_is_as_tp_1", "name 'tp' in Weights.split")


class CopiesWaitForEachOther(Fault):
    plugin = encoder(build_submodule=_tower("SumsOverCopies"))
    expected = ("ranks_without_media_do_not_hang", "whatever samples each of them has")


# Language models
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


class ItIsDeafToRows(LanguageFault):
    plugin = _language("Deaf")
    expected = ("placeholders_take_rows", "use decoder_input where it is given")


class ItForgetsWhereSamplesBegin(LanguageFault):
    plugin = _language("RunsOn")
    expected = ("packed_samples_are_as_alone", "begin anew at every bound of packed_seq_params")


class ItIsFrozenDeaf(LanguageFault):
    plugin = _language("NoGradients")
    expected = ("what_is_frozen_stays", "passes no gradient to the rows of encoders")


@hookimpl
def _no_mask(module, samples, context):
    given = nemotron.provide_batch(module, samples, context)
    return {key: value for key, value in given.items() if key != "loss_mask"}


class ItsBatchLacksTheMask(LanguageFault):
    plugin = SimpleNamespace(**{**vars(nemotron), "provide_batch": _no_mask})
    expected = ("batches_are_as_asked", "give what context.sequences(samples) holds")


# Datasets
class DatasetFault(Fault):
    kind = "dataset"


class _SameKeys(Pictures):
    def __getitem__(self, index: int) -> Sample:
        return Sample(key=f"{index}", parts=(self.medium(index), self.text(index)))


class _OtherShape(Pictures):
    def medium(self, index: int) -> Media:
        return Media(kind="image", shape=(6, 4), load=super().medium(index).load)


class _Lambda(Pictures):
    def __init__(self, split: str) -> None:
        super().__init__(split)
        self.make = lambda: None


class _Global(Pictures):
    def medium(self, index: int) -> Media:
        return Media(kind="image", shape=(4, 6), load=_global)


def _global(generator: np.random.Generator | None) -> np.ndarray:
    if generator is None:
        return np.zeros((4, 6, 3), dtype=np.uint8)
    return np.random.randint(0, 255, (4, 6, 3)).astype(np.uint8)


class _Silent(Pictures):
    def text(self, index: int) -> Text:
        return Text(text="x")


class _Long(Pictures):
    def text(self, index: int) -> Text:
        return Text(text="x" * 40, loss=True)


class SplitsShareSamples(DatasetFault):
    plugin = dataset(_SameKeys)
    expected = ("sample_keys_are_unique_and_splits_disjoint", "keep it out of one split")


class MediaHaveOtherShapes(DatasetFault):
    plugin = dataset(_OtherShape)
    expected = ("media_are_as_their_metadata_say", "is told as [6, 4], but load() gives [4, 6, 3]")


class AugmentationDrawsElsewhere(DatasetFault):
    plugin = dataset(_Global)
    expected = ("media_are_as_their_metadata_say", "draw from load()'s argument alone")


class ItCannotBePickled(DatasetFault):
    plugin = dataset(_Lambda)
    expected = ("the_dataset_goes_to_worker_processes", "functools.partial in place of a lambda")


class NothingIsLearned(DatasetFault):
    plugin = dataset(_Silent)
    expected = ("samples_are_samples", "Text(text=…, loss=True)")


class ThePreviewIsShort(DatasetFault):
    plugin = dataset(_Long)
    expected = ("the_preview_shows_the_longest", "preview() must show the longest")


def faults(ranks: int) -> list[type[Fault]]:
    """Those that show on so many ranks."""
    from mimo_core.testing.checks import CHECKS

    on = {check.name: check.ranks for check in CHECKS}
    found = [one for one in globals().values() if isinstance(one, type) and issubclass(one, Fault)]
    return [one for one in found if hasattr(one, "expected") and on[one.expected[0]] == ranks]
