"""Plugins that stand beside the one under test: the least that makes a recipe whole."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import attrs

from mimo_core.contract import (
    CONTRACT,
    LANGUAGE,
    Dataset,
    Edge,
    EncoderSpec,
    ModuleDescription,
    ParameterSpec,
    Sample,
    Text,
)
from mimo_core.plugins.hookspecs import hookimpl

LANGUAGE_PARTNER = "conformance-language"
ENCODER_PARTNER = "conformance-encoder"
DATA_PARTNER = "conformance-data"

ROWS = 3
"""Positions of a medium of the encoder."""


@attrs.frozen(kw_only=True)
class Width:
    """Options of both partners."""

    hidden_size: int
    """Width of the module."""


def _language() -> SimpleNamespace:
    """A language model that is one table of embeddings."""

    @hookimpl
    def options_class():  # type: ignore[no-untyped-def]
        return Width

    @hookimpl
    def describe_module(module):  # type: ignore[no-untyped-def]
        width = module.options.hidden_size
        weights = ParameterSpec(num_parameters=module.vocabulary_size * width, component="language")
        return ModuleDescription(
            hidden_size=width, num_layers=1, num_attention_heads=1, parameters=(weights,)
        )

    @hookimpl
    def rng_prefix(module):  # type: ignore[no-untyped-def]
        return "conformance-language."

    @hookimpl
    def build_submodule(module, groups, platform):  # type: ignore[no-untyped-def]
        from mimo_core.testing.stub_models import language_spec

        return language_spec(module, groups)

    @hookimpl
    def provide_batch(module, samples, context):  # type: ignore[no-untyped-def]
        raise AssertionError("the partner is given no batch")

    return _plugin(locals())


def _encoder() -> SimpleNamespace:
    """An encoder whose every medium takes ``ROWS`` positions; a medium holds its own rows."""

    @hookimpl
    def options_class():  # type: ignore[no-untyped-def]
        return Width

    @hookimpl
    def describe_module(module):  # type: ignore[no-untyped-def]
        return ModuleDescription(
            hidden_size=module.options.hidden_size,
            num_layers=1,
            num_attention_heads=1,
            parameters=(ParameterSpec(num_parameters=1),),
            modality="rows",
            count_positions=lambda media: [ROWS] * len(media),
        )

    @hookimpl
    def module_edges(module, modules):  # type: ignore[no-untyped-def]
        return [Edge(source=module.name, target=LANGUAGE, placeholder="<conformance>")]

    @hookimpl
    def rng_prefix(module):  # type: ignore[no-untyped-def]
        return "conformance-encoder."

    @hookimpl
    def build_submodule(module, groups, platform):  # type: ignore[no-untyped-def]
        from mimo_core.testing.stub_models import encoder_parts

        parts: EncoderSpec = encoder_parts(module, groups)
        return parts

    @hookimpl
    def provide_batch(module, samples, context):  # type: ignore[no-untyped-def]
        raise AssertionError("the partner is given no batch")

    return _plugin(locals())


class _OneSample:
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        return Sample(key="conformance/0", content=(Text(text="a", is_target=True),))


def _data() -> SimpleNamespace:
    @hookimpl
    def build_dataset(data, split) -> Dataset:  # type: ignore[no-untyped-def]
        return _OneSample()

    return _plugin(locals())


def _plugin(hooks: dict[str, Any]) -> SimpleNamespace:
    return SimpleNamespace(mimo_contract=CONTRACT, **hooks)


def partners() -> dict[str, object]:
    """All of them, by the names that recipes use."""
    return {LANGUAGE_PARTNER: _language(), ENCODER_PARTNER: _encoder(), DATA_PARTNER: _data()}


PARTNERS: Sequence[str] = (LANGUAGE_PARTNER, ENCODER_PARTNER, DATA_PARTNER)
