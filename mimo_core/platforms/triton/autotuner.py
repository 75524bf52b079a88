"""Triton's tuning of kernels, quicker: what is tried is compiled at once, and measured briefly.

A kernel under ``triton.autotune`` is run in each of its configurations when it is first used, and
the fastest is kept. Triton 3.6 to 3.9 (``triton/runtime/autotuner.py``) compile a configuration,
which keeps one core busy for 0.1 to 4 s, then measure it for 125 ms, then take the next. Mamba2
layers bring 16 such tunings of 120 configurations into the first iteration, one after another.

Here a kernel's first use is launched in the configuration that is compiled soonest, and the others
are compiled meanwhile: beside one another, and beside those of the kernels that follow. At its next
use they are measured, when nothing is being compiled any more; in a CUDA graph, never.

Nothing else is other than in Triton: which configurations are tried, hooks, keys, the cache on
disk, and that those which do not compile are passed over.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

from mimo_core.platforms.triton.parallel_compile import CompilingAtOnce, has_parts

WARM_UP = 5.0
"""Milliseconds that a configuration runs before it is measured. Triton's 25 remain for the first of
a tuning: the GPU has been idle while it compiled."""
REPETITION = 25.0
"""Milliseconds of measuring, where Triton takes 100: some 200 runs of a kernel of 40 microseconds
(each clears the L2 cache before), 8 of one of 3 ms, whose median is taken."""
MOST_THREADS = 16
_PENDING = "_mimo_pending"
_USED = "_mimo_used"


class _Later(Exception):
    """A tuning is put off to the kernel's next use."""

    def __init__(self, configs: tuple[Any, ...]) -> None:
        super().__init__()
        self.configs = configs


class TritonTuning:
    """Tuning in this process: what takes part in it, and what it took."""

    def __init__(self, threads: int, capturing: Callable[[], bool] = lambda: False) -> None:
        """
        Args:
            threads: How many configurations are compiled at once.
            capturing: Whether what is launched now is recorded in a CUDA graph, where nothing can
                be measured.
        """
        self.threads = threads
        self._capturing = capturing
        self._compiling = CompilingAtOnce(threads)
        self._lock = threading.Lock()
        self._tunings = 0
        self._configurations = 0
        self._seconds: dict[str, float] = {}

    def install(self) -> bool:
        """Have Triton tune in this way from now on; once a process.

        Returns:
            Whether it does. Without Triton, or with one whose parts are not those that this was
            written for, nothing is changed and it tunes as it always did.
        """
        if not understood():
            return False
        autotuner = importlib.import_module("triton.runtime.autotuner").Autotuner
        prune, measure, use = autotuner.prune_configs, autotuner._bench, autotuner.run

        @wraps(prune)
        def prune_configs(tuner: Any, kwargs: dict[str, Any]) -> Any:
            configs = prune(tuner, kwargs)
            vars(tuner)[_PENDING] = tuple(configs)
            return configs

        @wraps(measure)
        def _bench(tuner: Any, *args: Any, config: Any, **meta: Any) -> Any:
            pending = vars(tuner).pop(_PENDING, ())
            if pending and type(tuner).run is run and self._waits(tuner):
                raise _Later(pending)
            with self._counted(tuner, configurations=1, tunings=bool(pending)):
                if pending:
                    self._compiling.end()
                    # Of other shapes than the kernel's first.
                    self._compiling.begin(tuner.fn, pending, args, meta)
                    self._compiling.end()
                measured = partial(measure, tuner, *args, config=config, **meta)
                return _briefly(tuner, measured, first=bool(pending))

        @wraps(use)
        def run(tuner: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return use(tuner, *args, **kwargs)
            except _Later as later:
                configs = later.configs
            if not self._capturing():
                vars(tuner)[_USED] = True
            tuner.nargs = None
            first = min(configs, key=_work)
            try:
                with self._counted(tuner):
                    done = use(_only(tuner, first), *args, **kwargs)
            except _cannot_run():
                if self._capturing():
                    raise
                return use(tuner, *args, **kwargs)
            tuner.best_config = first  # Callers size by it what the kernel wrote.
            with self._counted(tuner):
                self._compiling.begin(tuner.fn, configs, args, kwargs)
            return done

        autotuner.prune_configs, autotuner._bench, autotuner.run = prune_configs, _bench, run
        return True

    def told(self) -> str | None:
        """What was tuned since this was last asked, in a line; ``None`` where nothing was."""
        with self._lock:
            tunings, configurations, seconds = self._tunings, self._configurations, self._seconds
            self._tunings, self._configurations, self._seconds = 0, 0, {}
        if not configurations:
            return None
        each = ", ".join(f"{name} {took:.1f}" for name, took in seconds.items())
        return (
            f"Triton tuned kernels for {sum(seconds.values()):.1f} s (tunings: {tunings}, "
            f"configurations: {configurations}, compiled at once: {self.threads}): {each}"
        )

    def _waits(self, tuner: Any) -> bool:
        """Whether a kernel is measured at a later use.

        Not where a tuner's own hook makes its outputs ready: of a sum over several launches, the
        first of them is what may be lost.
        """
        if self._capturing():
            return True
        prepares = tuner.reset_to_zero or tuner.user_defined_pre_hook
        return not prepares and not vars(tuner).get(_USED)

    @contextmanager
    def _counted(self, tuner: Any, configurations: int = 0, tunings: int = 0) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - started
            # Kernels of backward are tuned in autograd's thread.
            with self._lock:
                name = tuner.base_fn.__name__
                self._seconds[name] = self._seconds.get(name, 0.0) + took
                self._configurations += configurations
                self._tunings += tunings


def keep_cache() -> None:
    """Have all that Triton compiles and finds lie in one folder: Triton's own, or the user's.

    torch's compiler sets ``TRITON_CACHE_DIR`` to a folder under /tmp with its first kernel
    (torch 2.11, ``_inductor/runtime/triton_heuristics.py``): what is tuned after that is looked for
    elsewhere by the next process, whose first kernel may come later, and is gone with /tmp.
    """
    if importlib.util.find_spec("triton") is not None:
        cache = getattr(importlib.import_module("triton.knobs"), "cache", None)
        if folder := getattr(cache, "dir", None):
            os.environ.setdefault("TRITON_CACHE_DIR", folder)


def understood() -> bool:
    """Whether there is a Triton whose tuner has the parts that are used here."""
    if importlib.util.find_spec("triton") is None:
        return False
    try:
        autotuner = importlib.import_module("triton.runtime.autotuner").Autotuner
        return (
            has_parts()
            and _takes(autotuner._bench, "args", "config", "meta")
            and _takes(autotuner.prune_configs, "kwargs")
            and _takes(autotuner.run, "args", "kwargs")
            and _takes(autotuner.__init__, "reset_to_zero", "pre_hook")
        )
    except (ImportError, AttributeError):
        return False


def threads(environ: Mapping[str, str], at_most: int | None) -> int:
    """How many threads of this process may compile: its part of the machine's cores.

    Args:
        environ: The rank's environment.
        at_most: Ranks that there can be on this machine, where that is known.
    """
    world = int(environ.get("WORLD_SIZE", 1))
    here = world if at_most is None else min(world, at_most)
    ranks = int(environ.get("LOCAL_WORLD_SIZE", here))
    return max(1, min(MOST_THREADS, len(os.sched_getaffinity(0)) // ranks))


def _takes(function: Callable[..., Any], *names: str) -> bool:
    return set(names) <= set(inspect.signature(function).parameters)


def _work(config: Any) -> float:
    """About what compiling it takes: its block, as often as it is unrolled."""
    block = math.prod(size for size in config.kwargs.values() if type(size) is int and size > 0)
    return float(block * (config.num_stages or 1))


def _cannot_run() -> tuple[type[Exception], ...]:
    """Found of a configuration before anything of it runs; what the tuner passes over."""
    runtime = importlib.import_module("triton.runtime.errors")
    compiler = importlib.import_module("triton.compiler.errors")
    return runtime.OutOfResources, runtime.PTXASError, compiler.CompileTimeAssertionFailure


def _only(tuner: Any, config: Any) -> Any:
    """The same kernel with nothing to choose from."""
    only = copy.copy(tuner)
    only.configs = [config]
    return only


def _briefly(tuner: Any, measure: Callable[[], Any], *, first: bool) -> Any:
    """Measure, in less time than Triton's default; what a kernel's author set is as it was."""
    if tuner._do_bench is not None or "do_bench" in vars(tuner):
        return measure()
    benchmark = importlib.import_module("triton.runtime").driver.active.get_benchmarker()
    if not _takes(benchmark, "warmup", "rep"):
        return measure()
    warm_up = {} if first else {"warmup": WARM_UP}
    vars(tuner)["do_bench"] = partial(benchmark, rep=REPETITION, **warm_up)
    try:
        return measure()
    finally:
        del vars(tuner)["do_bench"]


__all__ = ["TritonTuning", "threads", "understood"]
