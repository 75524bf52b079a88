"""What a rank and the hub send each other: the run's token, then lines of JSON of bounded length.

A rank sends the token of the run as its first line. The hub parses nothing before it. Then the rank
sends ``{"join": rank, "screen": screen}``. The hub answers ``{"folder": …}`` when all ranks have
joined, or ``{"refused": cause}``. Later messages are ``{"label": …}``, ``{"beat": …}``,
``{"done": true}`` and ``{"failure": …}`` of a rank, and ``{"beat": {}}`` and ``{"failure": …}`` of
the hub.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
from collections.abc import MutableMapping
from typing import Any

import attrs

from mimo_core.errors import MimoError

TOKEN = "MIMO_TOKEN"
"""Environment variable with the run's token. Our launcher sets it; a user can set it under torchrun
and srun, the same on all ranks."""
LONGEST_TOKEN = 256
"""Bytes of a token, and so of all that the hub reads of a connection before it has sent one."""
_SHORTEST_TOKEN = 16
LONGEST_LINE = 1 << 20
"""Bytes of a message: a failure's text of 64 Ki characters, each 12 bytes at most in JSON, fits."""
LONGEST_TEXT = 1 << 16
"""Characters of a failure's message that are sent."""


class Malformed(ValueError):
    """A message that no rank sends."""


def new_token() -> str:
    """A random token, for one run."""
    return secrets.token_hex(32)


def take_token(environ: MutableMapping[str, str] | None = None) -> str | None:
    """The token from the environment, which is removed there: child processes do not need it.

    Raises:
        MimoError: it is too short, too long, or holds other characters than printable ASCII ones.
    """
    environ = os.environ if environ is None else environ
    token = environ.pop(TOKEN, None)
    if token is None:
        return None
    right_length = _SHORTEST_TOKEN <= len(token) <= LONGEST_TOKEN
    if not (right_length and token.isascii() and token.isprintable()):
        raise MimoError(
            f"{TOKEN} has to be {_SHORTEST_TOKEN} to {LONGEST_TOKEN} printable ASCII characters, "
            "the same on all ranks; `openssl rand -hex 32` prints a token",
            code="launch.token",
            variable=TOKEN,
        )
    return token


def same_token(line: bytes, token: str) -> bool:
    """Whether a line is the token; takes the same time wherever they differ."""
    return hmac.compare_digest(line, token.encode())


def encode(message: dict[str, Any]) -> bytes:
    """A message as a line."""
    return json.dumps(message).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """The message of a line.

    Raises:
        Malformed: it is no JSON object.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"no JSON: {error}") from None
    if not isinstance(message, dict):
        raise Malformed("no JSON object")
    return message


def integer(message: dict[str, Any], key: str, least: int, most: int) -> int:
    """A whole number of a message.

    Raises:
        Malformed: it is missing, no whole number, or not between ``least`` and ``most``.
    """
    value = message.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Malformed(f"{key} is no whole number from {least} to {most}")
    return value


@attrs.define(eq=False)
class Lines:
    """The lines that arrive by one connection."""

    longest: int
    """Bytes of a line at most."""
    _rest: bytes = b""

    def add(self, received: bytes) -> None:
        """Take what arrived."""
        self._rest += received

    def next(self) -> bytes | None:
        """The next line without its end; ``None`` if it has not arrived in full.

        Raises:
            Malformed: the line is longer than ``longest``.
        """
        line, end, rest = self._rest.partition(b"\n")
        if len(line) > self.longest:
            raise Malformed(f"a line of more than {self.longest} bytes")
        if not end:
            return None
        self._rest = rest
        return line
