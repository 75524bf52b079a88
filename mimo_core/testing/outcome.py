"""What checks say."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from typing import Any, Literal

import attrs

from mimo_core.errors import MimoError

Status = Literal["passed", "failed", "skipped"]


@attrs.frozen(kw_only=True)
class Finding:
    """Something that a plugin does wrong."""

    said: str
    """What is wrong, with the values."""
    fix: str
    """What to do."""

    def __str__(self) -> str:
        return f"{self.said}\n  to do: {self.fix}"


class UndeclaredSupportError(Exception):
    """The plugin does not say that it can do this; the check is skipped, by this reason."""


@attrs.frozen(kw_only=True)
class Outcome:
    """Of one check."""

    status: Status
    findings: tuple[Finding, ...] = ()
    why: str = ""
    """Of a check that was skipped, or what is to be known of one that passed."""
    waited: bool = False
    """It did not end: a rank waited for others."""

    @property
    def message(self) -> str:
        """All that is wrong, or why it was not looked at."""
        return self.why or "\n".join(map(str, self.findings))


def outcome_of(check: Callable[[], Iterator[Finding]]) -> Outcome:
    """Run a check; whatever it raises is a finding too."""
    findings: list[Finding] = []
    try:
        findings += check()
    except UndeclaredSupportError as skipped:
        if not findings:
            return Outcome(status="skipped", why=str(skipped))
    except (Exception, SystemExit) as error:
        findings.append(_raised(error))
    return Outcome(status="failed" if findings else "passed", findings=tuple(findings))


def _raised(error: Exception | SystemExit) -> Finding:
    if isinstance(error, MimoError | NotImplementedError):
        return Finding(said=str(error), fix="mend what the message names")
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return Finding(
        said=f"{type(error).__name__}: {error} (at {frame.filename}:{frame.lineno})",
        fix="mend this line, or what called it: a run would end with the same error",
    )


def as_json(outcome: Outcome) -> Any:
    """Plain values, for a file."""
    return attrs.asdict(outcome)


def from_json(values: Any) -> Outcome:
    """The inverse of :func:`as_json`."""
    findings = tuple(Finding(**finding) for finding in values["findings"])
    return Outcome(**values | {"findings": findings})
