"""All that a host expects of a plugin, as tests: subclass :class:`Conformance`.

Needs pytest; nothing that runs a model imports this.
"""

from __future__ import annotations

from typing import Any, get_args

import pytest

from mimo_core.errors import MimoError
from mimo_core.testing.checks import Check, checks_of
from mimo_core.testing.checks.description import planned
from mimo_core.testing.conformance_case import Kind, Subject
from mimo_core.testing.fixtures import Bench
from mimo_core.testing.launch import on_ranks
from mimo_core.testing.outcome import Outcome, outcome_of


class Conformance(Subject):
    """The kit: a subclass that names a plugin gets a test for each expectation of its kind.

    ::

        class TestMine(Conformance):
            plugin = "mine"
            kind = "encoder"
            options = {"hidden_size": 32, "layers": 2}

    What the plugin does not declare is skipped, with the name of what is not declared. All classes
    of one file share their launches: one of one rank, one of two.
    """

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if not hasattr(cls, "plugin"):
            return
        if getattr(cls, "kind", None) not in get_args(Kind):
            raise MimoError(
                f"{cls.__name__}.kind must be one of {', '.join(get_args(Kind))}",
                code="testing.wrong-subject",
                subject=cls.__name__,
                attribute="kind",
                choices=get_args(Kind),
            )
        if (cls.kind == "wrapper") != (cls.wraps is not None):
            raise MimoError(
                f"{cls.__name__}: kind = 'wrapper' and wraps = a Subject (the module or dataset "
                "that is wrapped) go together",
                code="testing.wrong-subject",
                subject=cls.__name__,
                attribute="wraps",
            )
        for check in checks_of(cls):
            name = f"test_{check.name}"
            if not hasattr(cls, name):
                setattr(cls, name, _test(check))


def _test(check: Check) -> Any:
    def test(self: Conformance) -> None:
        if not check.ranks:
            _judge(outcome_of(lambda: check(Bench(self))))
            return
        # What cannot be planned needs no ranks to fail.
        _judge(outcome_of(lambda: planned(Bench(self))))
        _judge(on_ranks(type(self), check))

    test.__name__ = f"test_{check.name}"
    return test


def _judge(outcome: Outcome) -> None:
    if outcome.status == "skipped":
        pytest.skip(outcome.message)
    if outcome.status == "failed":
        pytest.fail(outcome.message, pytrace=False)
