"""Checkpoints as they lie in a folder: which of them a run resumes from.

Megatron's tracker file is truncated in place and says nothing of what it names. A checkpoint is
complete where its manifest is, and what that says of the files holds.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import attrs

from mimo_core.checkpoint.manifest import (
    MANIFEST,
    Damaged,
    IncompleteCheckpointError,
    Manifest,
    read_manifest,
    unlisted_files,
    unreadable,
)
from mimo_core.errors import CheckpointError
from mimo_core.utils.durable_files import replace, sync_folder
from mimo_core.utils.regular_files import JSON_BYTES, UnreadableFile, read_bytes

TRACKER = "latest_checkpointed_iteration.txt"
"""Megatron's file that names the newest checkpoint of a folder."""
_SAVING = "{} saving {}"
"""What the tracker holds while the checkpoint after the one that it names gets its manifest."""
_NAMES = re.compile(r"(?a:(\d{1,18})(?: saving (\d{1,18}))?)")


@attrs.frozen(kw_only=True)
class LatestCheckpoint:
    """The checkpoint of a folder to go on from, if there is one."""

    checkpoints: Path
    manifest: Manifest | None
    told: tuple[str, ...] = ()
    """What a person should know of the other checkpoints there, a line each."""
    shortened: tuple[str, ...] = ()
    """Of ``told``, the checkpoints that were complete: the manifest is there, but files are missing
    or shorter than it lists."""
    refused: CheckpointError | None = None
    """Why nothing there may be loaded before a person has decided: what would have been the newest
    is damaged, or of another run."""

    @property
    def iteration(self) -> int | None:
        return None if self.manifest is None else self.manifest.iteration

    @property
    def path(self) -> Path:
        """Of the checkpoint, which must be there."""
        assert self.manifest is not None
        return checkpoint_path(self.checkpoints, self.manifest.iteration)

    def usable(self) -> LatestCheckpoint:
        """This, where it may be loaded.

        Raises:
            CheckpointError: it may not; see ``refused``.
        """
        if self.refused is not None:
            raise self.refused
        return self


def fallback_hint(checkpoints: Path, iteration: int) -> str:
    """What to do where the checkpoint of ``iteration`` cannot be used."""
    for earlier in sorted(_iterations(checkpoints), reverse=True):
        if earlier < iteration and is_complete(checkpoint_path(checkpoints, earlier)):
            return (
                f"the one before it that is complete is of iteration {earlier}; to go on from "
                f"there: echo {earlier} > {checkpoints / TRACKER}"
            )
    return "there is none before it to go back to; begin anew with another --run-dir"


def is_complete(checkpoint: Path) -> bool:
    """Whether a folder is a complete checkpoint, as far as its manifest and sizes tell."""
    try:
        read_manifest(checkpoint)
    except (IncompleteCheckpointError, CheckpointError):
        return False
    return True


def checkpoint_path(checkpoints: Path, iteration: int) -> Path:
    """Where megatron puts the checkpoint of an iteration."""
    return checkpoints / f"iter_{iteration:07d}"


def newest(checkpoints: Path) -> LatestCheckpoint:
    """The complete checkpoint that the tracker names, else the complete one of the highest
    iteration. A tracker that was not yet written for the newest one does not count.

    A run that is killed may leave the tracker empty or old, or a folder half-written. Those are
    left out. A damaged checkpoint that would be the newest is not: see
    ``LatestCheckpoint.refused``.

    Raises:
        CheckpointError: a checkpoint there is of another format than this version reads, or
            something there cannot be read.
    """
    there = sorted(_iterations(checkpoints), reverse=True)
    named, saving = _named(checkpoints)
    order = [n for n in dict.fromkeys((saving, named, *there)) if n is not None and n in there]
    found: Manifest | None = None
    refused: CheckpointError | None = None
    told: dict[int, str] = {}
    shortened: list[int] = []
    for iteration in order:
        if found is not None and iteration < found.iteration:
            continue
        path = checkpoint_path(checkpoints, iteration)
        try:
            manifest = read_manifest(path)
        except IncompleteCheckpointError as why:
            told[iteration] = f"{path} is no complete checkpoint: {why}"
            if (path / MANIFEST).exists():
                shortened.append(iteration)
            continue
        except Damaged as why:
            told[iteration] = why.text
            if found is None and refused is None:
                message = f"{why.text}; {fallback_hint(checkpoints, iteration)}"
                refused = CheckpointError(message, code=why.code, **why.values)
            continue
        if found is None:
            found = manifest
            if extra := unlisted_files(path, manifest):
                told[iteration] = f"{path} holds files that nothing reads: {', '.join(extra)}"
        elif manifest.run != found.run:
            told[iteration] = f"{path} is later, but of another run"
        else:
            told[iteration] = f"{path} is later, but {TRACKER} names iteration {found.iteration}"
    if found is not None and refused is None:
        refused = _other_run(checkpoints, found, there)
    return LatestCheckpoint(
        checkpoints=checkpoints,
        manifest=found,
        told=tuple(told[iteration] for iteration in sorted(told)),
        shortened=tuple(told[iteration] for iteration in sorted(shortened)),
        refused=refused,
    )


def _other_run(checkpoints: Path, found: Manifest, there: list[int]) -> CheckpointError | None:
    """Whether the complete checkpoint before it was saved by another run."""
    for iteration in there:
        path = checkpoint_path(checkpoints, iteration)
        if iteration >= found.iteration:
            continue
        try:
            before = read_manifest(path)
        except (IncompleteCheckpointError, CheckpointError):
            continue
        if before.run == found.run:
            return None
        newest_path = checkpoint_path(checkpoints, found.iteration)
        return CheckpointError(
            f"{newest_path} was saved by run {found.run}, and {path} by another run, {before.run}; "
            "move the checkpoints that do not belong to this run to another folder",
            code="checkpoint.other-run",
            newest=str(newest_path),
            earlier=str(path),
        )
    return None


def repair_tracker(found: LatestCheckpoint) -> None:
    """Let the tracker name what was found, in one step.

    Stock code ends the process with status 0 on a tracker without a number.
    """
    tracker = found.checkpoints / TRACKER
    if found.iteration is None:
        tracker.unlink(missing_ok=True)
    elif _named(found.checkpoints) != (found.iteration, None):
        replace(tracker, str(found.iteration))


def announce(checkpoints: Path, iteration: int) -> None:
    """Note in the tracker that the checkpoint of ``iteration`` is about to be complete.

    Without that, a run that is killed before Megatron has written the tracker leaves the same
    folder as a person who sets the tracker back to an earlier checkpoint.
    """
    named, _ = _named(checkpoints)
    if named is not None:
        replace(checkpoints / TRACKER, _SAVING.format(named, iteration))


def clear(checkpoint: Path) -> None:
    """Remove what an earlier attempt left in a checkpoint's folder, the manifest first."""
    if checkpoint.is_symlink():
        # Only the link: what it names is not this run's to remove.
        checkpoint.unlink()
        checkpoint.mkdir()
    if not checkpoint.exists():
        return
    (checkpoint / MANIFEST).unlink(missing_ok=True)
    sync_folder(checkpoint)
    for path in sorted(checkpoint.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def _iterations(checkpoints: Path) -> list[int]:
    try:
        names = os.listdir(checkpoints)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise unreadable(checkpoints, error) from None
    numbers = [int(found[1]) for name in names if (found := re.fullmatch(r"iter_([0-9]+)", name))]
    return [number for number in numbers if checkpoint_path(checkpoints, number).name in names]


def _named(checkpoints: Path) -> tuple[int | None, int | None]:
    """The iteration that the tracker names, and the one that was about to be complete; ``None``
    where it names none."""
    try:
        text = read_bytes(checkpoints / TRACKER, JSON_BYTES).decode(errors="replace").strip()
    except FileNotFoundError:
        return None, None
    except UnreadableFile as error:
        if error.errno == errno.ENOTDIR:
            return None, None
        raise unreadable(checkpoints / TRACKER, error) from None
    found = _NAMES.fullmatch(text)
    if found is None:
        return None, None
    return int(found[1]), None if found[2] is None else int(found[2])
