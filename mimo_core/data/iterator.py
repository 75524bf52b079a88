"""The iterator that the stock loop draws microbatches from, with a look at the next one."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from operator import add

import torch
from torch.utils.data import DataLoader

from mimo_core.data.microbatch_dataset import Batch, MicrobatchDataset
from mimo_core.data.row_counts import RowCounts
from mimo_core.profile.recorder import span


class MicrobatchIterator:
    """Microbatches ``first, first + 1, …, last - 1`` of this rank, again and again.

    The communicator looks at the next one (:meth:`peek_row_counts`) before the forward step takes
    it.
    """

    def __init__(
        self,
        slices: MicrobatchDataset,
        *,
        first: int,
        last: int,
        workers: int,
        seed: int,
        pinned: bool = False,
    ) -> None:
        """
        Args:
            slices: This rank's microbatches by number.
            first: Microbatch to begin with (a resumed run: the first that was not consumed).
            last: One past the last.
            workers: DataLoader worker processes; 0 loads in the rank's process.
            seed: Of the loader's own generator: the default generator belongs to the model, and
                DataLoader would draw from it.
            pinned: Batches are put into pinned memory by a thread, from which a GPU copies them
                while the host goes on.
        """
        self._loader: DataLoader | None = DataLoader(
            slices,
            batch_size=None,
            sampler=range(first, last),
            num_workers=workers,
            collate_fn=_as_it_is,
            generator=torch.Generator().manual_seed(seed),
            persistent_workers=workers > 0,
            worker_init_fn=_ignore_termination,
            pin_memory=pinned,
        )
        self._iterator: Iterator[Batch] | None = None
        self._next: Batch | None = None
        self._failed: Exception | None = None
        self.decoded = 0
        """Media decoded on this rank so far."""
        self._work: tuple[float, ...] = ()
        self._without_labels = 0

    def __iter__(self) -> MicrobatchIterator:
        return self

    def __next__(self) -> Batch:
        batch = self._look()
        self._next = None
        self.decoded += batch.decoded
        self._work = tuple(map(add, self._work, batch.work)) if self._work else batch.work
        self._without_labels += len(batch.without_labels)
        if batch.without_labels:
            print(f"no learned token in: {', '.join(batch.without_labels)}", flush=True)
        return batch

    def take_without_labels(self) -> int:
        """Number of samples without a learned token since the last call, where this rank reports
        its work."""
        taken, self._without_labels = self._without_labels, 0
        return taken

    def take_work(self) -> tuple[float, ...]:
        """The work of the microbatches since the last call, where this rank tells it."""
        taken, self._work = self._work, ()
        return taken

    def peek(self) -> Batch | None:
        """The microbatch that the next ``next()`` gives; ``None`` where that will fail."""
        try:
            return self._look()
        except Exception as error:
            self._failed = error
            return None

    def look_ahead(self) -> Batch:
        """The microbatch that the next ``next()`` gives; raises what that would."""
        return self._look()

    def peek_row_counts(self) -> RowCounts:
        """Rows of the microbatch that the next ``next()`` gives."""
        return self._look().rows

    def close(self) -> None:
        """End the loader's workers, which would not be ended with the process by SIGTERM."""
        workers = getattr(self._iterator, "_workers", [])
        self._iterator = self._loader = None
        for worker in workers:
            if worker.is_alive():
                worker.kill()

    def _look(self) -> Batch:
        if self._failed is not None:
            raise self._failed
        if self._next is None:
            with span("data", "next batch"):
                self._next = self._load()
        return self._next

    def _load(self) -> Batch:
        assert self._loader is not None, "closed"
        if self._iterator is None:
            self._iterator = iter(self._loader)
        try:
            return next(self._iterator)
        except StopIteration:
            self._iterator = iter(self._loader)
            return next(self._iterator)


def _ignore_termination(_worker: int) -> None:
    """A cluster sends SIGTERM to every process of a job: the rank needs its workers to go on until
    it has saved. They end with it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _as_it_is(batch: Batch) -> Batch:
    return batch
