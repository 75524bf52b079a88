"""The folder of a run: one place for the names of what is in it."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
import shlex
import stat
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import attrs

from mimo_core.errors import MimoError
from mimo_core.utils.regular_files import JSON_BYTES, read_bytes
from mimo_core.utils.safe_files import open_own, replace_text

UNUSABLE = "run.unusable-folder"
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP})
"""How a file system without locks answers: two runs are then not told apart."""
_SUMMARY_BYTES = 1 << 32
"""Of a summary at most: an iteration takes a few hundred."""


def _not_an_option(path: Path) -> Path:
    """The path, as commands read it that get it as a word."""
    return path.absolute() if str(path).startswith("-") else path


@attrs.frozen
class RunDirectory:
    """Paths of a run. Nothing is made until it is written."""

    path: Path = attrs.field(converter=_not_an_option)

    @classmethod
    def fresh(cls, name: str, base: Path | None = None) -> RunDirectory:
        """A new folder ``runs/NAME-DATE-TIME`` below the working directory."""
        base = base or Path("runs")
        stamp = time.strftime("%Y%m%d-%H%M%S")
        path, count = base / f"{name}-{stamp}", 1
        while path.exists():
            count += 1
            path = base / f"{name}-{stamp}-{count}"
        return cls(path)

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"

    def resume_command(self, disabled: Sequence[str], max_restarts: int) -> str:
        """What goes on with the run from its newest checkpoint, by the options it was given."""
        words = ["mimo-pretrain", str(self.recipe), "--run-dir", str(self.path)]
        for name in disabled:
            words += ["--no-plugin", name]
        if max_restarts:
            words += ["--max-restarts", str(max_restarts)]
        return shlex.join(words)

    def keep_recipe(self, text: str) -> None:
        """Write the resolved recipe; one of an earlier part of the run is kept beside it."""
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            before = read_bytes(self.recipe, JSON_BYTES)
        except FileNotFoundError:
            before = None
        if before is not None and before != text.encode():
            earlier = 1
            while (kept := self.path / f"recipe.earlier-{earlier}.yaml").exists():
                earlier += 1
            self.recipe.rename(kept)
        replace_text(self.recipe, text)

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def log(self, rank: int) -> Path:
        return self.logs / f"rank-{rank}.log"

    def failure(self, rank: int) -> Path:
        """Why a rank failed, written by itself."""
        return self.logs / f"rank-{rank}.failure.json"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def profile(self) -> Path:
        """The timeline of an iteration, where one was recorded."""
        return self.path / "profile"

    def check(self) -> None:
        """Whether it is a folder, or can become one.

        Raises:
            MimoError: it is something else, or the path leads nowhere.
        """
        try:
            mode = self.path.stat().st_mode
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise self._unusable(f"cannot be used: {why}") from None
        if not stat.S_ISDIR(mode):
            raise self._unusable("is a file, a pipe or a device, not a folder")
        if not os.access(self.path, os.R_OK | os.X_OK):
            raise self._unusable(f"cannot be read: {os.strerror(errno.EACCES)}")

    def _unusable(self, why: str) -> MimoError:
        message = f"--run-dir {self.path} {why}"
        return MimoError(message, code=UNUSABLE, folder=str(self.path))

    def lock(self) -> IO[str]:
        """Keep other runs out of the folder until the file that this gives is closed.

        Raises:
            MimoError: another run is in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        place = self.path / ".lock"
        try:
            file = os.fdopen(open_own(place, os.O_RDWR), "r+", encoding="utf-8")
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise MimoError(
                    f"{place} is a link, and a run locks a file of its own; remove the link",
                    code=UNUSABLE,
                    folder=str(self.path),
                    file=str(place),
                ) from None
            raise
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise MimoError(
                f"{self.path} is in use by another run; wait for its end, or give another "
                "--run-dir",
                code="run.in-use",
                folder=str(self.path),
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        return file

    def try_checkpoints(self, directory: str | None) -> None:
        """Find out now whether a checkpoint could be written.

        Raises:
            MimoError: the folder cannot be made, or nothing can be written there.
        """
        folder = self.checkpoints(directory)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise MimoError(
                f"checkpoints cannot be written to {folder}: {error}; set checkpoint.directory to "
                "another folder, or checkpoint.enabled to false",
                code="checkpoint.not-writable",
                folder=str(folder),
            ) from error

    def checkpoints(self, directory: str | None) -> Path:
        """Where checkpoints are: the recipe's ``checkpoint.directory``, else in this folder."""
        return self.path / (directory or "checkpoints")

    @property
    def loss_picture(self) -> Path:
        return self.path / "loss.png"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    def read_summary(self) -> dict[str, Any] | None:
        """The summary of the run so far, if it has one. A damaged one is put aside.

        Raises:
            UnreadableFile: it is no regular file, or the system refuses it.
        """
        try:
            content = read_bytes(self.summary, _SUMMARY_BYTES)
        except FileNotFoundError:
            return None
        try:
            return json.loads(content.decode())  # type: ignore[no-any-return]
        except ValueError:
            self.summary.replace(self.summary.with_suffix(".damaged.json"))
            return None

    def reopen_summary(self) -> None:
        """Let the summary, if there is one, tell of a run that has not come to its end."""
        summary = self.read_summary()
        if summary is not None and summary.pop("finished", None) is not None:
            self.write_summary(summary)

    def write_summary(self, summary: dict[str, Any]) -> dict[str, Any]:
        """Replace the summary; a reader sees the old or the new one, never a part.

        Returns:
            What was written: ``None`` where a number is not finite.
        """
        written: dict[str, Any] = finite(summary)
        replace_text(self.summary, json.dumps(written, indent=1, allow_nan=False) + "\n")
        return written


def finite(value: Any) -> Any:
    """A value for JSON, which has no NaN and no infinity: ``None`` stands there."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    return [finite(inner) for inner in value] if isinstance(value, list | tuple) else value
