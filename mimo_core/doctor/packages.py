"""Versions: what each distribution asks for, and what is there. Reads metadata alone."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from mimo_core.doctor.findings import Finding
from mimo_core.plugins import PluginRecord

SECTION = "packages"
_SHOWN = ("torch", "megatron-core", "transformer-engine", "mamba-ssm", "causal-conv1d")
"""Those that are not there are told by what needs them: the core's requirements, ranks on GPUs."""


def packages() -> Iterator[Finding]:
    """The core, and the packages that it stands on."""
    yield Finding(section=SECTION, what="python", found=platform.python_version())
    yield from fitting("mimo-core")
    for name in _SHOWN:
        if (there := _version(name)) is not None:
            yield Finding(section=SECTION, what=name, found=there)


def plugin_packages(records: Iterable[PluginRecord]) -> Iterator[Finding]:
    """The distributions that bring plugins, where what they require is not there."""
    for name in sorted({record.distribution for record in records}):
        yield from (finding for finding in fitting(name) if finding.verdict != "good")


def fitting(distribution: str) -> Iterator[Finding]:
    """A distribution, and whether what it requires is there."""
    here = _version(distribution)
    if here is None:
        yield Finding(
            section=SECTION,
            what=distribution,
            found="not installed as a distribution",
            verdict="wrong",
            remedy=f"pip install {distribution}",
        )
        return
    wrong = list(_unfulfilled(distribution))
    told = "; ".join(f"it needs {need}, found {found or 'none'}" for need, found in wrong)
    needs = " ".join(f"'{need}'" for need, _ in wrong)
    yield Finding(
        section=SECTION,
        what=distribution,
        found=f"{here}{f' ({told})' if told else ''}",
        verdict="wrong" if wrong else "good",
        remedy=f"pip install {needs}" if wrong else "",
    )


def _unfulfilled(distribution: str) -> Iterator[tuple[str, str | None]]:
    """Requirements that are not met, and the version that is there."""
    for line in requires(distribution) or ():
        need = Requirement(line)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        here = _version(need.name)
        if here is None or not need.specifier.contains(here, prereleases=True):
            need.marker = None
            yield str(need), here


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
