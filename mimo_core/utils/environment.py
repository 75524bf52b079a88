"""Variables that a person sets: their names, what they may say; the one place that reads them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from mimo_core.errors import MimoError, Problem, suggestion

INVALID = "environment.invalid-value"
PLATFORM = "MIMO_PLATFORM"
"""Forces ``cpu`` or ``cuda``; by default a GPU is used if there is."""
PLUGINS = "MIMO_PLUGINS"
"""The plugins that are loaded, separated by commas."""
NO_AUTOLOAD = "MIMO_DISABLE_PLUGIN_AUTOLOAD"
"""A switch: no plugins but those of ``MIMO_PLUGINS``."""
PEAK = "MIMO_PEAK_TFLOPS"
"""TFLOP/s of one rank at most, in the precision of its module: instead of the table."""
EAGER = "MIMO_EAGER_COMMUNICATORS"
"""A switch: NCCL makes its communicators at the start instead of at first use."""
SHARE = "MIMO_SHARE_GPUS"
"""A switch: several ranks may use one GPU, to try a layout on few."""
THREADS = "OMP_NUM_THREADS"
"""Threads of a rank on CPUs, as OpenMP has it: a number, or one for each nested level."""

NAMES = (PLATFORM, PLUGINS, NO_AUTOLOAD, PEAK, EAGER, SHARE, THREADS)
_OURS = "MIMO_"
_PLATFORMS = ("cpu", "cuda")
_ON = ("1", "true", "yes", "on")
_OFF = ("0", "false", "no", "off")


def switched_on(name: str, environ: Mapping[str, str]) -> bool:
    """Whether a variable says yes; one that is empty or not there does not.

    Raises:
        MimoError: it says neither yes nor no.
    """
    said = environ.get(name, "").strip()
    if said.lower() in _ON:
        return True
    if not said or said.lower() in _OFF:
        return False
    message = f"{name}={said}: expected {', '.join(_ON)}, or {', '.join(_OFF)} (or nothing)"
    raise MimoError(message, code=INVALID, variable=name, value=said)


def platform(environ: Mapping[str, str]) -> str | None:
    """The platform that ``MIMO_PLATFORM`` names, if any.

    Raises:
        MimoError: it names none of them.
    """
    said = environ.get(PLATFORM) or None
    if said is not None and said not in _PLATFORMS:
        raise MimoError(
            f"{PLATFORM}={said}: expected {' or '.join(_PLATFORMS)}; without it, a GPU is used "
            "where torch finds one",
            code=INVALID,
            variable=PLATFORM,
            value=said,
        )
    return said


def peak_flops(environ: Mapping[str, str]) -> float | None:
    """FLOP/s of a rank that ``MIMO_PEAK_TFLOPS`` says, if any.

    Raises:
        MimoError: it says no number above 0.
    """
    said = environ.get(PEAK)
    if not said:
        return None
    try:
        tera = float(said)
    except ValueError:
        tera = 0.0
    if not 0 < tera < float("inf"):
        raise MimoError(
            f"{PEAK}={said}: expected the TFLOP/s of one rank at most, a number above 0 such as "
            "989.4; without it, MFU is told on GPUs that are known",
            code=INVALID,
            variable=PEAK,
            value=said,
        )
    return tera * 1e12


def threads(environ: Mapping[str, str]) -> int:
    """Threads of a rank on CPUs that ``OMP_NUM_THREADS`` says: 1 where it says nothing, and the
    first of several, which are for nested levels.

    Raises:
        MimoError: it says no numbers above 0.
    """
    said = environ.get(THREADS, "").strip()
    if not said:
        return 1
    if not re.fullmatch(r"0*[1-9][0-9]{0,5}(\s*,\s*0*[1-9][0-9]{0,5})*", said):
        raise MimoError(
            f"{THREADS}={said}: expected the threads of a rank on CPUs, a whole number from 1 to "
            "999999 (or several as OpenMP has them, such as 4,2, of which the first counts); "
            "without it, 1",
            code=INVALID,
            variable=THREADS,
            value=said,
        )
    return int(said.partition(",")[0])


_READERS: Mapping[str, Callable[[Mapping[str, str]], object]] = {
    PLATFORM: platform,
    PEAK: peak_flops,
    EAGER: lambda environ: switched_on(EAGER, environ),
    SHARE: lambda environ: switched_on(SHARE, environ),
    THREADS: threads,
}
"""Of each variable that needs no plugins to be judged; discovery judges those that do."""


def problems(environ: Mapping[str, str]) -> Iterator[tuple[str, Problem]]:
    """Variables with values that they cannot have, each with its problem."""
    for name, read in _READERS.items():
        try:
            read(environ)
        except MimoError as error:
            yield name, error.problems[0]


def check(environ: Mapping[str, str]) -> None:
    """Called before anything is made of the environment.

    Raises:
        MimoError: a variable says what it cannot; a line for each.
    """
    wrong = [problem for _, problem in problems(environ)]
    if wrong:
        raise MimoError.of(wrong)


def unknown(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Variables that look like ours and are not, each with what is said of it."""
    ours = [name for name in NAMES if name.startswith(_OURS)]
    for name in sorted(environ):
        if name.startswith(_OURS) and name not in ours:
            yield name, f"mimo-core reads no such variable.{suggestion(name, ours)}"
