"""All findings."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from mimo_core import platforms
from mimo_core.doctor import abilities, machine, packages
from mimo_core.doctor.findings import Finding, Verdict
from mimo_core.errors import MimoError
from mimo_core.plugins import Host
from mimo_core.recipe import builtin
from mimo_core.utils import environment

SECTION = "plugins"


@attrs.frozen(kw_only=True)
class Report:
    """What the doctor found."""

    findings: tuple[Finding, ...]

    @property
    def wrong(self) -> tuple[Finding, ...]:
        """What must be mended before a run."""
        return tuple(finding for finding in self.findings if finding.verdict == "wrong")


def examine(disabled: Sequence[str] = ()) -> Report:
    """Look at everything; takes the seconds that importing torch in another process takes.

    Args:
        disabled: Installed plugins to leave out.
    """
    return Report(findings=tuple(_all(disabled)))


def _all(disabled: Sequence[str]) -> Iterator[Finding]:
    torch = machine.ask_torch()
    yield from packages.packages()
    try:
        host = Host.discover(disabled)
    except MimoError as error:
        host = None
        yield Finding(section=SECTION, what="discovery", found=error.text, verdict="wrong")
    if host is not None:
        yield from packages.plugin_packages(host.records)
        yield from _plugins(host)
    yield from _environment(torch)
    yield from machine.machine(torch)
    yield from abilities.ranks(torch)
    if host is not None:
        yield from abilities.recipes(host, torch)


def _plugins(host: Host) -> Iterator[Finding]:
    if not host.records:
        yield Finding(
            section=SECTION,
            what="plugins",
            found="none are installed",
            verdict="wrong",
            remedy=f"pip install {' '.join(builtin.distributions())}",
        )
    for record in host.records:
        came = f"{record.distribution} {record.version}"
        if record.state == "broken":
            yield Finding(
                section=SECTION,
                what=record.name,
                found=f"{came}: {record.reason}",
                verdict="wrong",
                remedy=f"pip install -U {record.distribution}, or uninstall it",
            )
        elif record.state == "disabled":
            said = f"{came}: disabled {record.reason}"
            yield Finding(section=SECTION, what=record.name, found=said, verdict="note")
        else:
            yield Finding(
                section=SECTION,
                what=record.name,
                found="; ".join([came, *record.warnings]),
                verdict="note" if record.warnings else "good",
                remedy="tell its authors" if record.warnings else "",
            )


def _environment(torch: dict[str, Any] | str) -> Iterator[Finding]:
    wrong = {name: problem.text for name, problem in environment.problems(os.environ)}
    if environment.PLATFORM not in wrong and (why := _no_gpu(torch)):
        wrong[environment.PLATFORM] = f"cuda, but {why}"
    for name in environment.NAMES:
        value = os.environ.get(name)
        if name in wrong:
            yield _variable(name, wrong[name], "wrong", f"unset {name}")
        elif value:
            yield _variable(name, value, "note")
    for name, said in environment.unknown(os.environ):
        yield _variable(name, said, "note", f"unset {name}")


def _variable(name: str, found: str, verdict: Verdict, remedy: str = "") -> Finding:
    return Finding(section="environment", what=name, found=found, verdict=verdict, remedy=remedy)


def _no_gpu(torch: dict[str, Any] | str) -> str | None:
    """Why ranks cannot use the GPU that ``MIMO_PLATFORM`` wants, if it wants one."""
    if platforms.wanted() != "cuda":
        return None
    if not isinstance(torch, str) and not torch["gpus"]:
        return platforms.no_gpu() or "torch finds no GPU on this machine"
    return None
