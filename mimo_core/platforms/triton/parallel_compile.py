"""Configurations of Triton kernels, several compiled at once, in threads of this process."""

from __future__ import annotations

import importlib
import inspect
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any


class CompilingAtOnce:
    """What is being compiled now, of any kernels."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._modes: list[Any] = []

    def begin(
        self, fn: Any, configs: Sequence[Any], args: Sequence[Any], meta: Mapping[str, Any]
    ) -> None:
        """Have a kernel compiled in these configurations into Triton's own caches.

        One that fails is left to be compiled, and to fail, where it is launched. Hooks of
        configurations are not called: one that changes what is compiled has it compiled where it
        is launched.

        Args:
            fn: The kernel, with or without heuristics around it.
            configs: What to compile it in.
            args: Of a launch, positional.
            meta: Of a launch, by name.
        """
        if not _compiles_elsewhere(fn):
            return
        asynchronous = importlib.import_module("triton.runtime._async_compile")
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads, "triton-compile")
            mode = asynchronous.AsyncCompileMode(self._pool, ignore_errors=True)
            self._modes.append(mode)
        mode.__enter__()
        try:
            # Whatever goes wrong comes again where the kernel is launched, to whom it concerns.
            with suppress(Exception):
                for config in configs:
                    fn.run(*args, **{**meta, **config.all_kwargs(), "warmup": True})
        finally:
            asynchronous.active_mode.set(None)

    def end(self) -> None:
        """Wait until nothing is being compiled."""
        with self._lock:
            modes, self._modes = self._modes, []
            pool, self._pool = self._pool, None
        active = importlib.import_module("triton.runtime._async_compile").active_mode
        somebody_elses = active.get()
        for mode in modes:
            # A hook of the user's may fail; it is called again where the kernel is launched.
            with suppress(Exception):
                mode.__exit__(None, None, None)
        active.set(somebody_elses)
        if pool is not None:
            pool.shutdown()


def has_parts() -> bool:
    """Whether the installed Triton has the parts that are used here.

    Raises:
        ImportError, AttributeError: it has others.
    """
    runtime = importlib.import_module("triton.runtime")
    asynchronous = importlib.import_module("triton.runtime._async_compile")
    return (
        _takes(asynchronous.AsyncCompileMode, "executor", "ignore_errors")
        and _takes(runtime.JITFunction.run, "args", "grid", "warmup", "kwargs")
        and callable(asynchronous.active_mode.set)
        and inspect.isclass(importlib.import_module("triton.runtime.autotuner").Heuristics)
    )


def _takes(function: Any, *names: str) -> bool:
    return set(names) <= set(inspect.signature(function).parameters)


def _compiles_elsewhere(fn: Any) -> bool:
    """Whether it is a kernel that Triton compiles, and nobody else has it compiled in threads."""
    runtime = importlib.import_module("triton.runtime")
    heuristics = importlib.import_module("triton.runtime.autotuner").Heuristics
    asynchronous = importlib.import_module("triton.runtime._async_compile")
    while isinstance(fn, heuristics):
        fn = fn.fn
    return isinstance(fn, runtime.JITFunction) and asynchronous.active_mode.get() is None


__all__ = ["CompilingAtOnce", "has_parts"]
