"""Faults that show before there are ranks."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
from fault import Fault, described
from good_plugins import Options, encoder

from mimo_core import LANGUAGE, Edge, hookimpl


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
    expected = ("hooks_and_signatures", "lacks hook provide_batch")


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
    def options_class():
        return cls

    return options_class


class OptionsCanBeChanged(Fault):
    plugin = encoder(options_class=_options(_Mutable))
    expected = ("options_come_back_from_yaml", "write @attrs.frozen(kw_only=True) above _Mutable")


class OptionsChangeInYaml(Fault):
    plugin = encoder(options_class=_options(_Shifting))
    options: ClassVar[dict[str, Any]] = {"depth": 1}
    expected = ("options_come_back_from_yaml", "depth: 2 becomes 3")


class AnOptionIsNotDocumented(Fault):
    plugin = encoder(options_class=_options(_Bare))
    expected = ("every_option_is_documented", "without a word of what they do: depth")


class PositionsAreDecoded(Fault):
    plugin = encoder(
        describe_module=described(
            count_positions=lambda media: [one.load(None).size for one in media]
        )
    )
    expected = ("the_description_is_sound", "count from MediaItem.shape alone")


class PositionsAreFewer(Fault):
    plugin = encoder(
        describe_module=described(count_positions=lambda media: [4 for _ in media[:1]])
    )
    expected = ("the_description_is_sound", "a whole number above 0 for each medium")


class PositionsAreOneNumber(Fault):
    plugin = encoder(describe_module=described(count_positions=lambda media: 4))
    expected = ("the_description_is_sound", "are 4 (int)")


class PositionsAreNoFunction(Fault):
    plugin = encoder(describe_module=described(count_positions=[4]))
    expected = ("the_description_is_sound", "[4] (list); expected a function that gives one whole")


class ItOwnsWhatThereIsNot(Fault):
    plugin = encoder(describe_module=described(owned_config_fields=frozenset({"num_layer"})))
    expected = ("the_description_is_sound", "owns num_layer, which TransformerConfig does not have")


class ItCapturesWhatCannotBe(Fault):
    plugin = encoder(describe_module=described(graphable_layers=frozenset({"mlp"})))
    expected = ("the_description_is_sound", "captures mlp, which is no part that CUDA graphs can")


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
