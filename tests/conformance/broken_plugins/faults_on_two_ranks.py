"""Faults of encoders that show on two ranks; towers are in ``faulty_towers``."""

from __future__ import annotations

from types import SimpleNamespace

import attrs
from fault import Fault, tower
from good_plugins import description, encoder

from mimo_core import hookimpl
from mimo_core.testing import Subject


class CopiesDiffer(Fault):
    plugin = encoder(build_submodule=tower("DiffersByRank"))
    expected = ("copies_save_each_tensor_once", "never from the rank")


class CopiesAllSave(Fault):
    plugin = encoder(build_submodule=tower("SavesOnEveryCopy"))
    expected = ("copies_save_each_tensor_once", "replica_id must be 0 on exactly one")


class ASumIsMissing(Fault):
    plugin = encoder(build_submodule=tower("LacksASum"))
    expected = ("tp_2_is_as_tp_1", "puts out something else with tp 2")


class ASumOfGradientsIsMissing(Fault):
    plugin = encoder(build_submodule=tower("LacksASumOfGradients"))
    expected = ("tp_2_is_as_tp_1", "the gradient of modality_submodules.encoder.encoders.tower.emb")


class ASliceIsSavedAsTheWhole(Fault):
    plugin = encoder(build_submodule=tower("SavesItsPartAsTheWhole"))
    expected = ("tp_2_is_as_tp_1", "takes the axis of each parameter that is split over tp")


@hookimpl
def _no_split(module):
    told = description(module)
    whole = tuple(attrs.evolve(one, sharded_over=frozenset()) for one in told.parameters)
    return attrs.evolve(told, parameters=whole)


class WhatTpDividesIsNotTold(Fault):
    plugin = encoder(describe_module=_no_split)
    expected = ("tp_2_is_as_tp_1", "name 'tp' in ParameterSpec.sharded_over")


class CopiesWaitForEachOther(Fault):
    plugin = encoder(build_submodule=tower("SumsOverCopies"))
    expected = ("ranks_without_media_do_not_hang", "whatever samples each of them has")


@hookimpl
def _own_projector(module, groups, platform):
    import faulty_towers
    import good_tower
    from megatron.core.transformer.spec_utils import ModuleSpec

    parts = good_tower.encoder(module, groups)
    width, language_width = module.options.hidden_size, module.language_width
    params = {"config": parts.config, "width": width, "language_width": language_width}
    spec = ModuleSpec(
        module=faulty_towers.NotFiniteOnASecondRank, params=params | {"groups": groups}
    )
    return attrs.evolve(parts, projector=spec)


class NumbersOfOneRankAreNotFinite(Fault):
    plugin = encoder(build_submodule=_own_projector)
    expected = ("tp_2_is_as_tp_1", "largest difference inf")


class GradientsOfOneRankAreNotFinite(Fault):
    plugin = encoder(build_submodule=tower("GradientsAreNotFinite"))
    expected = (
        "tp_2_is_as_tp_1",
        "encoders.tower.up.weight of 'good-encoder' is another with tp 2",
    )


class AWeightLearnsOverTpAlone(Fault):
    plugin = encoder(build_submodule=tower("LearnsOverTpAlone"))
    expected = (
        "tp_2_is_as_tp_1",
        "encoders.tower.embed.bias of 'good-encoder' is another with tp 2",
    )


class OneOfTwoProcessesEnds(Fault):
    plugin = encoder(build_submodule=tower("LastRankEnds"))
    expected = ("tp_2_is_as_tp_1", "rank 1 ended with exit code 0 and left no result")


@hookimpl(wrapper=True)
def _drops_a_sum(module, groups, platform):
    import faulty_towers
    from megatron.core.transformer.spec_utils import ModuleSpec

    parts = yield
    spec = ModuleSpec(module=faulty_towers.LacksASum, params=parts.tower.params)
    return attrs.evolve(parts, tower=spec)


class _Lenient(Subject):
    plugin = encoder()
    kind = "encoder"
    tolerance = 10.0


class TheToleranceIsTheWrappers(Fault):
    plugin = SimpleNamespace(
        __name__="faulty-wrapper", mimo_contract="1.0", build_submodule=_drops_a_sum
    )
    kind = "wrapper"
    wraps = _Lenient
    expected = ("tp_2_is_as_tp_1", "puts out something else with tp 2")
