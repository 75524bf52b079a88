"""Gradients of a module are reduced while its last backward still runs.

megatron-core 0.19 (``--overlap-grad-reduce``) sends a bucket of gradients as soon as it is complete
in the last microbatch, and learns in the first step how often each parameter is touched. Both
suppose that every microbatch gives every parameter a gradient. An encoder whose last microbatch
has no picture on one data-parallel rank gets none there: core fails ("communication call has not
been issued"), and where it did not, two ranks would send buckets in different orders, or take
different buckets for each other.

Here the buckets of a module leave in one order, the same on all ranks: a complete one waits for
those before it, and what is not complete when the last microbatch is through leaves then.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel

from mimo_core.errors import MimoError


class OrderedBucketReducer:
    """The buckets of one wrapped module, dense and expert ones in one order."""

    def __init__(self, module: DistributedDataParallel) -> None:
        """Take the buckets over from core; right after wrapping.

        Args:
            module: Wrapped with ``overlap_grad_reduce``.
        """
        buckets = [*module.bucket_groups, *module.expert_parallel_bucket_groups]
        # Backward gives gradients to what was registered last, first; of a bucket the last counts.
        turns = {one: turn for turn, one in enumerate(reversed([*module.parameters()]))}
        self._buckets = sorted(buckets, key=lambda each: max(turns[one] for one in each.params))
        self._times: dict[int, Mapping[torch.nn.Parameter, int]] = {}
        self._complete: set[int] = set()
        self._gone = 0
        for number, bucket in enumerate(self._buckets):
            # Core would send by itself what it takes for its first batch.
            bucket.is_first_batch = False
            bucket.register_grad_ready = partial(self._ready, number)

    def finish(self, force_all_reduce: bool = False) -> None:
        """Send what has not left yet. Called when the last microbatch is through, on all ranks of
        the module; core waits for the results then."""
        for number, bucket in enumerate(self._buckets):
            touched = bucket.per_param_grad_ready_counts
            if number not in self._times and len(touched) == len(bucket.params):
                self._times[number] = dict(touched)
        self._complete = set(range(len(self._buckets)))
        self._send(force_all_reduce)
        self._complete, self._gone = set(), 0

    def _ready(
        self, number: int, parameter: torch.nn.Parameter, force_all_reduce: bool = False
    ) -> None:
        """A parameter has got a gradient: core's hook, in backward.

        Raises:
            MimoError: it had got all that it got in earlier steps, and they have left.
        """
        bucket = self._buckets[number]
        if not bucket.is_last_microbatch:
            return
        if number < self._gone:
            raise MimoError(
                "a parameter got more gradients than in earlier steps, after they were sent: the "
                "model uses it a changing number of times in a step; leave "
                "megatron.overlap_grad_reduce out",
                code="megatron.refused-value",
                field="overlap_grad_reduce",
            )
        touched: dict[Any, int] = bucket.per_param_grad_ready_counts
        touched[parameter] = touched.get(parameter, 0) + 1
        if touched == self._times.get(number):
            self._complete.add(number)
            self._send(force_all_reduce)

    def _send(self, force_all_reduce: bool) -> None:
        while self._gone in self._complete:
            self._buckets[self._gone].start_grad_sync(force_all_reduce=force_all_reduce)
            self._gone += 1
