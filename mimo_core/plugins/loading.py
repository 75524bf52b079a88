"""Importing a plugin: what it must not do then is kept from others, and told."""

from __future__ import annotations

import builtins
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import attrs

from mimo_core.contract import CONTRACT
from mimo_core.errors import PluginError
from mimo_core.plugins.versions import core_version

HEAVY = ("torch", "megatron", "transformers", "transformer_engine", "mamba_ssm")
"""Take seconds to import."""


@attrs.frozen(kw_only=True)
class Loaded:
    """An imported plugin."""

    plugin: object
    warnings: tuple[str, ...]
    """What its authors should mend; it can be used."""


def load(importer: Callable[[], Any], check: Callable[[object], None]) -> Loaded:
    """Import a plugin.

    Its printing is kept off the screen, where programs may read ours.

    Args:
        importer: Imports it.
        check: Raises where the host cannot use what was imported.

    Raises:
        PluginError: it wants a name of the core that is not there, or does not pass the check.
        BaseException: whatever its import raises, ``SystemExit`` included.
    """
    printed = _Kept()
    with _heavy_imports() as heavy, redirect_stdout(printed):
        try:
            plugin = importer()
        except (ImportError, AttributeError) as error:
            if not _of_the_core(error):
                raise
            raise PluginError(
                f"{type(error).__name__}: {error}; it may want a newer mimo-core (this is "
                f"{core_version()}, contract {CONTRACT}) or reach into what is not public",
                code="plugin.import-failed",
            ) from error
        finally:
            printed.pass_on()
    check(plugin)
    return Loaded(plugin=plugin, warnings=tuple(_warnings(heavy, printed.text)))


def _of_the_core(error: ImportError | AttributeError) -> bool:
    """Whether it is the core that lacks a name."""
    where = error.name if isinstance(error, ImportError) else getattr(error.obj, "__name__", "")
    return (where or "").partition(".")[0] == "mimo_core"


class _Kept(io.TextIOBase):
    """Stands for stdout: keeps what is written while a plugin is imported; passes on what a plugin
    that holds on to it writes later."""

    def __init__(self) -> None:
        self.text = ""
        self._open = True

    def write(self, text: str) -> int:
        if not self._open:
            return sys.stdout.write(text)
        self.text += text
        return len(text)

    def pass_on(self) -> None:
        """Keep no more."""
        self._open = False


def _warnings(heavy: list[str], printed: str) -> Iterator[str]:
    if heavy:
        yield (
            f"imports {heavy[0]} when it is imported, which makes every listing and plan wait: "
            "import it inside the functions that need it"
        )
    if printed.strip():
        first = printed.strip().splitlines()[0]
        yield f"prints when it is imported ({first[:60]!r}); it was kept off the screen"


@contextmanager
def _heavy_imports() -> Iterator[list[str]]:
    """The heavy packages that are imported in this, and where, also those loaded before."""
    found: list[str] = []
    stock = builtins.__import__
    depth = 0

    def spy(
        name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        nonlocal depth
        package = name.partition(".")[0]
        heavy = level == 0 and package in HEAVY
        if heavy and not depth:
            caller = sys._getframe(1)
            found.append(f"{package} (at {caller.f_code.co_filename}:{caller.f_lineno})")
        depth += heavy
        try:
            return stock(name, globals, locals, fromlist, level)
        finally:
            depth -= heavy

    before = set(sys.modules)
    builtins.__import__ = spy
    try:
        yield found
    finally:
        builtins.__import__ = stock
    # Imported by other means than a statement.
    found += [name for name in HEAVY if not found and name in sys.modules and name not in before]
