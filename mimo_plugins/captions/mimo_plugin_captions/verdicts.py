"""Which images can be decoded: found out once on a machine, and remembered in a cache folder."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs
import numpy as np
import PIL

from mimo_plugin_captions import __version__
from mimo_plugin_captions.options import Options


@attrs.frozen(kw_only=True, eq=False)
class Verdicts:
    """What was found out of images, by the fingerprints of their files."""

    good: np.ndarray
    """uint64, sorted."""
    broken: np.ndarray
    """uint64, sorted."""
    reasons: np.ndarray
    """Text, one for each of ``broken``."""

    @classmethod
    def none(cls) -> Verdicts:
        empty = np.array([], dtype=np.uint64)
        return cls(good=empty, broken=empty, reasons=np.array([], dtype=str))

    def unknown(self, images: np.ndarray) -> np.ndarray:
        """Those of ``images`` (uint64) of which nothing is known; sorted, each once."""
        return np.setdiff1d(images, np.concatenate([self.good, self.broken]))

    def reason(self, image: int) -> str:
        """Why an image of ``broken`` is."""
        return str(self.reasons[np.searchsorted(self.broken, np.uint64(image))])

    def of(self, images: np.ndarray) -> Verdicts:
        """Without those of images that are not among ``images``."""
        kept = np.isin(self.broken, images)
        return Verdicts(
            good=np.intersect1d(self.good, images),
            broken=self.broken[kept],
            reasons=self.reasons[kept],
        )

    def and_also(self, looked_at: np.ndarray, broken: dict[int, str]) -> Verdicts:
        """With the verdicts of more images (uint64): good, but for those in ``broken``."""
        fingerprints = np.array(list(broken), dtype=np.uint64)
        all_broken = np.concatenate([self.broken, fingerprints])
        reasons = np.concatenate([self.reasons, np.array(list(broken.values()), dtype=str)])
        order = np.argsort(all_broken)
        return Verdicts(
            good=np.union1d(self.good, np.setdiff1d(looked_at, fingerprints)),
            broken=all_broken[order],
            reasons=reasons[order],
        )


class Cache:
    """The verdicts of a file's images. One that cannot be read or written is as good as empty."""

    def __init__(self, options: Options) -> None:
        parts = (str(options.path.resolve()), str(options.root.resolve()))
        versions = (__version__, PIL.__version__)
        name = hashlib.blake2b("\0".join(parts + versions).encode(errors="surrogateescape"))
        self._path: Path | None = None
        with suppress(RuntimeError):  # a user without a home
            self._path = _folder() / f"{options.path.stem}-{name.hexdigest()[:16]}.npz"

    def read(self) -> Verdicts:
        if self._path is None:
            return Verdicts.none()
        try:
            with np.load(self._path, allow_pickle=False) as arrays:
                verdicts = Verdicts(**{key: arrays[key] for key in ("good", "broken", "reasons")})
            kinds = [array.dtype.kind for array in attrs.astuple(verdicts, recurse=False)]
            fits = kinds == ["u", "u", "U"] and len(verdicts.broken) == len(verdicts.reasons)
        except Exception:  # a damaged archive shows itself in many ways
            return Verdicts.none()
        return verdicts if fits else Verdicts.none()

    def write(self, verdicts: Verdicts) -> None:
        """Replace what is remembered; a reader sees the old or the new."""
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft = self._path.with_name(f".{self._path.stem}-{secrets.token_hex(4)}.npz")
            try:
                # With the umask's mode, which tempfile's files do not have.
                with draft.open("xb") as file:
                    np.savez(file, **attrs.asdict(verdicts, recurse=False))
                os.replace(draft, self._path)
            finally:
                draft.unlink(missing_ok=True)
        except OSError as error:
            print(f"captions: cannot remember which images are good: {error}", flush=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While no other process of this machine is inside, where the cache folder can lock."""
        with suppress(OSError):
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = None if self._path is None else self._path.with_suffix(".lock").open("ab")
        except OSError:
            lock = None
        if lock is None:
            yield
            return
        with lock:
            with suppress(OSError):  # a file system without locks
                _lock(lock.fileno())
            yield


def _lock(descriptor: int) -> None:
    """Until the file is closed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("captions: waiting for another process that decodes the images", flush=True)
        fcntl.flock(descriptor, fcntl.LOCK_EX)


def _folder() -> Path:
    """As the XDG base directories have it: a relative path does not count."""
    given = Path(os.environ.get("XDG_CACHE_HOME") or ".")
    return (given if given.is_absolute() else Path.home() / ".cache") / "mimo-plugin-captions"
