"""Switches in the environment: the one place that reads them."""

from __future__ import annotations

from collections.abc import Mapping

from mimo_core.errors import MimoError

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
    raise MimoError(f"{name}={said}: expected {', '.join(_ON)}, or {', '.join(_OFF)} (or nothing)")
