"""Faults of encoders that show on two ranks; towers are in ``faulty_towers``."""

from __future__ import annotations

import attrs
from fault import Fault, tower
from good_plugins import description, encoder

from mimo_core import hookimpl


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
    whole = tuple(attrs.evolve(one, split=frozenset()) for one in told.weights)
    return attrs.evolve(told, weights=whole)


class WhatTpDividesIsNotTold(Fault):
    plugin = encoder(describe=_no_split)
    expected = ("tp_2_is_as_tp_1", "name 'tp' in Weights.split")


class CopiesWaitForEachOther(Fault):
    plugin = encoder(build_submodule=tower("SumsOverCopies"))
    expected = ("ranks_without_media_do_not_hang", "whatever samples each of them has")
