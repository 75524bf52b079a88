"""Tests of a plugin that reads one type of ``config.json``: subclass :class:`ConfigSuite`.

Needs pytest; nothing that runs a model imports this.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest

from mimo_core.testing.config_cases import compared, wrong

TOLERANCE = 1e-5
"""Relative to the largest number, in float32: sums are taken in another order."""


class ConfigSuite:
    """Every key of a file, left out and changed: the numbers of transformers, or refused by name.

    The function ``one_rank`` of ``config_ranks.py`` beside the test returns ``cases`` (see
    ``config_cases.outcomes``; one is named ``exported``), ``unknown`` and ``defaults``.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def compared(cls) -> Any:
        return compared(str(sys.modules[cls.__module__].__file__))

    def test_each_key_gives_the_same_numbers_or_is_refused_by_name(
        self, compared: dict[str, Any]
    ) -> None:
        cases = compared["cases"]
        assert wrong(cases, TOLERANCE) == {}
        assert sum("refused" in case for case in cases.values()) > 20
        assert sum("difference" in case for case in cases.values()) > 10

    def test_a_model_of_the_exported_config_computes_the_same(
        self, compared: dict[str, Any]
    ) -> None:
        assert compared["cases"]["exported"]["difference"] < TOLERANCE

    def test_every_key_of_the_class_is_known_with_its_default(
        self, compared: dict[str, Any]
    ) -> None:
        assert compared["unknown"] == []
        assert compared["defaults"] == {}
