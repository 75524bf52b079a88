"""Where megatron 0.19.2's stock loop is adapted: each with its reason.

``tests/distributed/test_megatron_patches.py`` fails where a reason is gone.
"""

from __future__ import annotations

import pickle
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mimo_core.errors import CheckpointError, MimoError, code_of, values_of
from mimo_core.megatron_patches.restricted_loading import metadata_error, restrict_loading
from mimo_core.profile.recorder import span
from mimo_core.profile.spans import Kind
from mimo_core.utils.signals import children_ignore


def patch_training_loop(
    *,
    train_step: Callable[[Callable[..., Any]], Callable[..., Any]],
    evaluate: Callable[[Callable[..., Any]], Callable[..., Any]],
    build_optimizer: Callable[..., Any],
) -> None:
    """Adapt megatron in this process, once, before ``pretrain()``.

    Args:
        train_step: Gives the function that stands around the stock ``train_step``. The loop has
            no hook after a step, prints its losses on the world's last rank only (ours are where
            the language model's last stage is), and the communicator must know whose rows come.
        evaluate: The same around the stock ``evaluate``.
        build_optimizer: Replaces ``get_mimo_optimizer``; see :mod:`mimo_core.optimizer`.
    """
    import megatron.core.datasets.utils as dataset_utils
    import megatron.core.models.mimo.optimizer as mimo_optimizer
    from megatron.training import training

    # Runs make in a folder that has no Makefile in the wheel, which ships what it would compile.
    dataset_utils.compile_helpers = _noop_compile_helpers
    mimo_optimizer.get_mimo_optimizer = build_optimizer
    training.train_step = train_step(training.train_step)
    training.evaluate = evaluate(training.evaluate)
    # It compiles what few layers have, in sizes of the arguments: 2 s of a start on a GPU, 3 s the
    # first time. What layers have is compiled at its first use.
    training.set_jit_fusion_options = _skip_jit_warmup
    # What does not fit is told by a tree of exceptions of all ranks that names no folder.
    training.load_checkpoint = _annotate_load_errors(training.load_checkpoint)
    _split_without_copies()


@contextmanager
def trace_passes() -> Iterator[None]:
    """Have the stock schedules tell a step's recorder of each microbatch's passes while this is
    open.

    They have no hook around a pass, and their timers leave out the backward pass of a rank that
    other modules feed. Backward passes come in the order of the forward ones.
    """
    from megatron.core.pipeline_parallel import schedules

    def recorded(kind: Kind, stock: Callable[..., Any], numbers: Iterator[int]) -> Any:
        def one_pass(*args: Any, **kwargs: Any) -> Any:
            with span(kind, kind, next(numbers)):
                return stock(*args, **kwargs)

        return one_pass

    backward = count()
    numbers = {"forward_step": count(), "backward_step": backward}
    numbers["backward_step_multimodule"] = backward
    stock = {name: getattr(schedules, name) for name in numbers}
    for name, function in stock.items():
        kind: Kind = "forward" if name == "forward_step" else "backward"
        setattr(schedules, name, recorded(kind, function, numbers[name]))
    try:
        yield
    finally:
        for name, function in stock.items():
            setattr(schedules, name, function)


def adapt_checkpoints(
    *,
    iteration: int | None,
    save: Callable[[Callable[..., Any]], Callable[..., Any]],
    load: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> None:
    """Adapt what megatron saves and loads in this process, once, before ``pretrain()``.

    Args:
        iteration: Of the checkpoint to load, on all ranks. Stock code reads the tracker file on
            each, takes the highest number, and ends the process with status 0 where there is none.
        save: Gives the function that stands around ``dist_checkpointing.save``, after which the
            stock code writes the tracker: a checkpoint must be complete before.
        load: The same around ``dist_checkpointing.load``, which leaves out what it is not asked
            for.
    """
    from megatron.core import dist_checkpointing
    from megatron.training import checkpointing

    restrict_loading()
    ours = {"save": save(dist_checkpointing.save), "load": load(dist_checkpointing.load)}
    checkpointing.dist_checkpointing = SimpleNamespace(**{**vars(dist_checkpointing), **ours})
    checkpointing.checkpoint_exists = lambda folder: folder is not None
    checkpointing.read_metadata = lambda _tracker: (-1 if iteration is None else iteration, False)


def _noop_compile_helpers() -> None: ...


def _skip_jit_warmup(tp_size: int | None = None) -> None: ...


def _split_without_copies() -> None:
    """Give attention TransformerEngine's splitting of queries, keys and values.

    Its backward joins gradients that lie side by side without a copy. Core looks for it where it
    was before TransformerEngine 2, and takes torch's, which copies all of them.
    """
    from megatron.core.transformer import attention

    if attention.SplitAlongDim is None and "transformer_engine.pytorch" in sys.modules:
        from transformer_engine.pytorch.utils import SplitAlongDim

        attention.SplitAlongDim = SplitAlongDim.apply


def _annotate_load_errors(stock: Callable[..., Any]) -> Callable[..., Any]:
    def load_checkpoint(*args: Any, **kwargs: Any) -> Any:
        from megatron.training import get_args
        from torch.distributed.checkpoint.api import CheckpointException

        given = get_args()
        folder = given.load or given.pretrained_checkpoint
        try:
            return stock(*args, **kwargs)
        except CheckpointError:
            raise
        # torch's CheckpointException is a BaseException.
        except (Exception, CheckpointException) as error:
            cause = metadata_error() or _first_cause(error)
            raise MimoError(
                f"the checkpoint in {folder} cannot be loaded: {_shown(cause)}. It must be whole, "
                "and of the same modules with options that give the same shapes",
                code=code_of(cause, "checkpoint.not-loaded"),
                **{**values_of(cause), "folder": str(folder)},
            ) from error

    return load_checkpoint


def _first_cause(error: BaseException) -> BaseException:
    """That of one rank, of an error that holds those of all ranks."""
    failures = getattr(error, "failures", None)
    if failures:
        return _first_cause(failures[min(failures)][0])
    return error


def _shown(error: BaseException) -> str:
    if isinstance(error, MimoError):
        return error.text
    if isinstance(error, pickle.UnpicklingError):
        # torch advises to unpickle whatever it is.
        return "a file holds other bytes than were saved"
    # Where a key is missing, all keys of the checkpoint follow.
    return (str(error.args[0]) if error.args else type(error).__name__).partition(": [")[0]


def prepare_checkpoint_queue() -> None:
    """Make the queue that checkpoint writers report to, in a forked process.

    Where the stock saving makes it, a process is spawned that imports everything anew: seconds of
    every run's first checkpoint. Called before process groups exist.
    """
    from megatron.core.dist_checkpointing.strategies.filesystem_async import (
        get_write_results_queue,
    )

    with children_ignore():
        get_write_results_queue("fork")


def write_tensorboard(folder: Path) -> None:
    """Let the stock loop write TensorBoard events from this rank.

    It would on the world's last rank, which may be any module's. Called after the globals are set.
    """
    from megatron.training import global_vars
    from torch.utils.tensorboard import SummaryWriter

    global_vars._GLOBAL_TENSORBOARD_WRITER = SummaryWriter(log_dir=str(folder))


def install_stop_callback(args: Any, agreed: Callable[[], bool]) -> None:
    """Have the stock loop ask ``agreed`` after each iteration: it saves and ends where that is so.

    Its own handler (``--exit-signal-handler``) gathers a tensor of every rank and reads them one
    by one, after every iteration, and knows nothing of a signal before arguments are parsed.
    Called after the globals are set.
    """
    from megatron.training import global_vars

    class Agreed:
        def signals_received(self) -> list[bool]:
            return [agreed()]

    global_vars._GLOBAL_SIGNAL_HANDLER = Agreed()
    args.exit_signal_handler = True


@contextmanager
def treat_exit_as_completion() -> Iterator[None]:
    """The stock loop ends the process where an exit flag says so (``exit_interval``), or a signal:
    the run is done then, with its checkpoint saved, and what comes after it still has to happen.

    Raises:
        RuntimeError: something else ended the process.
    """
    try:
        yield
    except SystemExit as end:
        *_, (frame, line) = traceback.walk_tb(end.__traceback__)
        stock = frame.f_globals.get("__name__") == "megatron.training.training"
        if not stock or end.code not in (None, 0):
            place = f"{frame.f_code.co_filename}:{line}"
            raise RuntimeError(f"sys.exit({end.code!r}) was called at {place}") from end
