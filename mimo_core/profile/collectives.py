"""Collectives of a recorded step: torch's are called from everywhere, so torch's are told apart.

A collective that is awaited at once is one span. Of one that is not, the begin is a span, and
another where its ``wait()`` is called.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from mimo_core.profile.recorder import recorder, span, wait_for
from mimo_core.profile.spans import Exchange

_NAMES = (
    "all_gather",
    "all_gather_into_tensor",
    "all_reduce",
    "all_to_all",
    "all_to_all_single",
    "barrier",
    "broadcast",
    "gather",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "scatter",
)
_COALESCING = "_coalescing_manager"


@contextmanager
def recorded_collectives() -> Iterator[None]:
    """Have torch's collectives on the current stream record themselves while this is open.

    Modules that took a function by its name before (megatron does) are given the recording one.
    """
    given = {id(getattr(dist, name)): _recorded(name) for name in _NAMES}
    given[id(getattr(distributed_c10d, _COALESCING))] = _recorded_batch()
    taken = [
        (module, name, value)
        for module in _modules()
        for name, value in list(vars(module).items())
        if id(value) in given
    ]
    for module, name, value in taken:
        setattr(module, name, given[id(value)])
    with _main_stream_is_this():
        try:
            yield
        finally:
            for module, name, value in taken:
                setattr(module, name, value)


def _modules() -> list[Any]:
    """All but torch's own inside, whose collectives are parts of others; and this."""
    return [
        module
        for name, module in list(sys.modules.items())
        if (name == "torch.distributed" or not f"{name}.".startswith("torch."))
        and name != __name__
        and hasattr(module, "__dict__")
    ]


def _recorded(name: str) -> Callable[..., Any]:
    stock = getattr(dist, name)
    order = list(inspect.signature(stock).parameters)

    def given(word: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        at = order.index(word)
        return args[at] if at < len(args) else kwargs.get(word)

    @wraps(stock)
    def collective(*args: Any, **kwargs: Any) -> Any:
        ranks = _members(given("group", args, kwargs))
        if not ranks:
            return stock(*args, **kwargs)
        with span("exchange", name):
            exchange = _come_to(name, ranks)
            work = stock(*args, **kwargs)
            if not given("async_op", args, kwargs):
                wait_for([exchange])
        return _Work(work, name, exchange) if isinstance(work, dist.Work) else work

    return collective


def _recorded_batch() -> Callable[..., Any]:
    """Collectives that begin together where the batch ends."""
    stock = getattr(distributed_c10d, _COALESCING)

    @contextmanager
    def batch(group: Any = None, device: Any = None, async_ops: bool = False) -> Iterator[Any]:
        ranks = _members(group)
        if not ranks:
            with stock(group, device, async_ops) as works:
                yield works
            return
        name = "collectives"
        with span("exchange", name):
            exchange = _come_to(name, ranks)
            with stock(group, device, async_ops) as works:
                yield works
            if not async_ops:
                wait_for([exchange])
        if async_ops:
            works.wait = partial(_recorded_wait, works.wait, name, exchange)

    return batch


class _Work:
    """A collective under way; within a batch, one that torch lets nobody wait for."""

    def __init__(self, work: dist.Work, name: str, exchange: Exchange) -> None:
        self._work, self._name, self._exchange = work, name, exchange

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        return _recorded_wait(self._work.wait, self._name, self._exchange, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


def _recorded_wait(
    wait: Callable[..., Any], name: str, exchange: Exchange, *args: Any, **kwargs: Any
) -> Any:
    if recorder() is None or not _on_main_stream():
        return wait(*args, **kwargs)
    with span("exchange", name):
        wait_for([exchange])
        return wait(*args, **kwargs)


def _come_to(name: str, ranks: tuple[int, ...]) -> Exchange:
    now = recorder()
    assert now is not None
    return now.come_to(name, ranks, message=False)


def _members(group: Any) -> tuple[int, ...]:
    """World ranks of a group; none where its collectives are not recorded: outside of a step, in a
    group of one, beside the main stream (they are waited for elsewhere), in a graph's capture."""
    if recorder() is None or group == dist.GroupMember.NON_GROUP_MEMBER or not _on_main_stream():
        return ()
    ranks = tuple(dist.get_process_group_ranks(group or dist.group.WORLD))
    return ranks if len(ranks) > 1 else ()


_main_stream: Any = None


@contextmanager
def _main_stream_is_this() -> Iterator[None]:
    global _main_stream  # noqa: PLW0603
    _main_stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        _main_stream = None


def _on_main_stream() -> bool:
    if _main_stream is None:
        return True
    return (
        torch.cuda.current_stream() == _main_stream and not torch.cuda.is_current_stream_capturing()
    )
