"""Faults of encoders that show on one rank; towers are in ``faulty_towers``."""

from __future__ import annotations

import attrs
import numpy as np
from fault import Fault, described, tower
from good_plugins import encoder, rows, told, weights

from mimo_core import hookimpl


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
    plugin = encoder(build_submodule=tower("Unused"))
    expected = (
        "parameters_are_as_described",
        "has 4,115 parameters, but describe_module().parameters tells",
    )


class FlopsAreThoseOfMultiplications(Fault):
    plugin = encoder(estimate_flops=told(1.0))
    expected = (
        "flops_are_those_of_the_forward",
        "for part 'encoder' and media of shapes [[32, 32]]",
    )


class TheProjectorIsNotCounted(Fault):
    plugin = encoder(estimate_flops=told(2.0, projector=0.0))
    expected = ("flops_are_those_of_the_forward", "tells 0 for part 'projector'")


class ItSeedsItself(Fault):
    plugin = encoder(build_submodule=tower("SeedsItself"))
    expected = ("the_seed_alone_makes_the_weights", "leave out torch.manual_seed")


class ItIsNotSeeded(Fault):
    plugin = encoder(build_submodule=tower("SeedsNothing"))
    expected = ("the_seed_alone_makes_the_weights", "built twice from one seed has other weights")


class ItHasASeedOfItsOwn(Fault):
    plugin = encoder(build_submodule=tower("OneSeed"))
    expected = ("the_seed_alone_makes_the_weights", "the same weights with every seed of the run")


@hookimpl
def _always_a_batch(module, samples, context):
    import good_tower
    import torch

    arrays = context.decode_media(samples)
    patch = 3 * module.options.patch_size**2
    return good_tower.batch(module, arrays) if arrays else {"patches": torch.zeros(0, patch)}


class TextAloneIsEncoded(Fault):
    plugin = encoder(provide_batch=_always_a_batch)
    expected = ("batches_are_as_asked", "gives a batch of patches for text alone")


@hookimpl
def _arrays(module, samples, context):
    arrays = context.decode_media(samples)
    return {"patches": np.stack([array.mean() for array in arrays])} if arrays else None


class BatchesAreArrays(Fault):
    plugin = encoder(provide_batch=_arrays)
    expected = ("batches_are_as_asked", "torch.from_numpy")


@hookimpl
def _random_batch(module, samples, context):
    import good_tower
    import torch

    arrays = context.decode_media(samples)
    if not arrays:
        return None
    given = good_tower.batch(module, arrays)
    return {"patches": given["patches"] + torch.rand(given["patches"].shape)}


class BatchesAreAugmented(Fault):
    plugin = encoder(provide_batch=_random_batch)
    expected = ("batches_are_as_asked", "gives another batch for the same samples")


class RowsAreFewer(Fault):
    plugin = encoder(build_submodule=tower("DropsARow"))
    expected = ("rows_are_as_described", "puts out rows [15, 32] for media of shapes [[32, 32]]")


class RowsAreMiscounted(Fault):
    plugin = encoder(
        describe_module=described(
            count_positions=lambda media: [rows(media[0].shape, 8) for _ in media]
        )
    )
    expected = ("rows_are_as_described", "correct describe_module().count_positions or the tower")


class RowsAreWide(Fault):
    plugin = encoder(build_submodule=tower("Wide"))
    expected = ("rows_are_as_described", "but describe_module().hidden_size is 16")


class RowsAreNotFinite(Fault):
    plugin = encoder(build_submodule=tower("NotFinite"))
    expected = ("rows_are_as_described", "rows that are not finite")


class Bf16BecomesFloat32(Fault):
    plugin = encoder(build_submodule=tower("Float32"))
    expected = ("bf16_stays_bf16", "puts out torch.float32 where the module's precision")


class AParameterIsUnused(Fault):
    plugin = encoder(build_submodule=tower("Unused"))
    expected = ("gradients_reach_every_parameter", "no gradient reaches encoders.tower.spare")


class TheGradientStops(Fault):
    plugin = encoder(build_submodule=tower("Detached"))
    expected = ("gradients_reach_every_parameter", "encoders.tower.embed.weight")


class ForwardDrawsElsewhere(Fault):
    plugin = encoder(build_submodule=tower("Noisy"))
    expected = ("forward_twice_gives_the_same", "draw from torch's default generator")


class AFrozenTowerCounts(Fault):
    plugin = encoder(build_submodule=tower("Counts"))
    expected = ("what_is_frozen_stays", "changed in a forward: seen")


class AFrozenTowerLearns(Fault):
    plugin = encoder(build_submodule=tower("LearnsAllTheSame"))
    expected = ("what_is_frozen_stays", "learns all the same: embed.weight")


class WhatDecidesIsNotSaved(Fault):
    plugin = encoder(build_submodule=tower("DrawnTable"))
    expected = ("a_loaded_checkpoint_is_the_same_model", "but puts out something else")


class AParameterIsNotSaved(Fault):
    plugin = encoder(build_submodule=tower("Forgets"))
    expected = ("the_checkpoint_holds_everything", "encoders.tower.embed.bias")


class ABufferIsNotSaved(Fault):
    plugin = encoder(build_submodule=tower("ForgetsABuffer"))
    expected = ("the_checkpoint_holds_everything", "would not hold encoders.tower.seen")


@hookimpl
def _map_lacks_one(module):
    given = weights(module)
    return attrs.evolve(given, rules=given.rules[1:])


class AWeightHasNoName(Fault):
    plugin = encoder(param_mappings=_map_lacks_one)
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
    plugin = encoder(param_mappings=_map_computes)
    expected = ("weights_go_out_and_come_back", "is not x in the rule for embed.weight")


@hookimpl
def _map_names_twice(module):
    given = weights(module)
    last = attrs.evolve(given.rules[-1], files={"up.weight": given.rules[-1].tensors[0].shape})
    return attrs.evolve(given, rules=(*given.rules[:-1], last))


class ANameIsGivenTwice(Fault):
    plugin = encoder(param_mappings=_map_names_twice)
    expected = ("every_tensor_has_a_name_in_files", "several tensors of one name in files: up.weig")


class TheProcessEnds(Fault):
    plugin = encoder(build_submodule=tower("EndsTheProcess"))
    expected = ("forward_twice_gives_the_same", "the process ended in this check")


class TheProcessEndsWell(Fault):
    plugin = encoder(build_submodule=tower("EndsTheProcessWell"))
    expected = ("forward_twice_gives_the_same", "rank 0 ended with exit code 0 and left no result")


class TheProcessExits(Fault):
    plugin = encoder(build_submodule=tower("Exits"))
    expected = ("forward_twice_gives_the_same", "SystemExit: 0 (at ")
