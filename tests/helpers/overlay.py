"""Environments as users have them: wheels installed into an environment of their own.

An overlay is a virtual environment whose packages are those that a test installs, and below them
what the tests themselves run with (torch, megatron, pytest, …), so that nothing is downloaded. Of
the running environment it sees no plugin and no ``mimo-core``, neither files nor metadata,
installed or editable: it shows the rest through links, since entry points are found in every folder
of ``sys.path``, and what is linked is all that is in that folder. (The hooks of editable installs
are ``.pth`` files; Python reads these in its own site folders alone, not in one that a ``.pth``
names.)
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import Distribution, distributions
from pathlib import Path

import attrs

GROUP = "mimo.plugins"
_LEFT_BY_BUILDS = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist", ".*")
_BESIDE_PACKAGES = {"tests", "mimo_plugins", "examples"}


def build_wheels(sources: Sequence[Path], folder: Path) -> dict[str, Path]:
    """Wheels of projects by the name of their distribution; built from copies, offline.

    In their own folders builds would leave files there, and take up what others left.
    """
    copies = [folder / "sources" / (source.name or "core") for source in sources]
    for source, copy in zip(sources, copies, strict=True):
        shutil.copytree(source, copy, ignore=partial(_not_built, source))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "wheel"]
    where = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder / "wheels"]
    _run([*pip, *where, *copies], cwd=folder)
    wheels = (folder / "wheels").glob("*.whl")
    return {wheel.name.split("-")[0].replace("_", "-"): wheel for wheel in wheels}


@attrs.frozen(kw_only=True)
class Overlay:
    """An environment, and an empty folder to work in."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, wheels: Sequence[Path]) -> Overlay:
        """An environment with these wheels, their dependencies checked as pip does."""
        overlay = cls(folder=folder)
        venv.create(overlay.folder / "env", with_pip=False)
        below = overlay.folder / "below"
        below.mkdir()
        for entry in _shared():
            (below / entry.name).symlink_to(entry)
        (overlay.site / "below.pth").write_text(f"{below}\n")
        overlay.work.mkdir()
        overlay.install(wheels)
        return overlay

    @property
    def python(self) -> Path:
        return self.folder / "env" / "bin" / "python"

    @property
    def site(self) -> Path:
        """Where packages are installed."""
        name = f"python{sys.version_info.major}.{sys.version_info.minor}"
        return self.folder / "env" / "lib" / name / "site-packages"

    @property
    def work(self) -> Path:
        """The working directory of what is run."""
        return self.folder / "work"

    def install(self, wheels: Sequence[Path]) -> None:
        """Install more wheels; what they need must be among them, or below.

        Raises:
            AssertionError: pip refuses, such as for a dependency that is not there.
        """
        pip = [sys.executable, "-m", "pip", "--python", self.python, "--quiet"]
        _run([*pip, "--disable-pip-version-check", "install", "--no-index", *wheels], cwd=self.work)

    def uninstall(self, *names: str) -> None:
        """Uninstall distributions."""
        pip = [sys.executable, "-m", "pip", "--python", self.python, "--quiet"]
        _run([*pip, "--disable-pip-version-check", "uninstall", "--yes", *names], cwd=self.work)

    def run(
        self, program: str, *arguments: str | Path, timeout: float = 240.0, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run one of the environment's programs (``mimo``, ``mimo-pretrain``, ``python``).

        Raises:
            subprocess.TimeoutExpired: it took too long; nothing of it is left.
        """
        process = subprocess.Popen(
            [self.folder / "env" / "bin" / program, *arguments],
            cwd=self.work,
            env=self._environ() | environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            screen, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, screen, errors)

    def _environ(self) -> dict[str, str]:
        """Nothing that leads Python, or mimo, elsewhere."""
        led = ("PYTHON", "MIMO_", "VIRTUAL_ENV", "PYTEST_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(led)}
        path = os.pathsep.join([str(self.python.parent), os.environ["PATH"]])
        return kept | {"PATH": path, "COLUMNS": "120"}


def _not_built(source: Path, folder: str, names: list[str]) -> set[str]:
    beside = _BESIDE_PACKAGES if Path(folder) == source else set()
    return _LEFT_BY_BUILDS(folder, names) | beside & set(names)


def _shared() -> Iterator[Path]:
    """What of the running environment an overlay shows."""
    for name in dict.fromkeys(path for path in sys.path if path.endswith("-packages")):
        site = Path(name)
        hidden = {
            part
            for distribution in distributions(path=[name])
            if _is_ours(distribution)
            for part in _top_level(distribution)
        }
        for entry in sorted(site.iterdir()):
            if entry.name not in hidden and entry.suffix != ".pth" and entry.name != "__pycache__":
                yield entry


def _is_ours(distribution: Distribution) -> bool:
    named = distribution.metadata["Name"].lower().startswith(("mimo-core", "mimo-plugin-"))
    return named or any(point.group == GROUP for point in distribution.entry_points)


def _top_level(distribution: Distribution) -> Iterator[str]:
    """Names in the site folder that the distribution installed."""
    return (file.parts[0] for file in distribution.files or ())


def _run(command: Sequence[str | Path], cwd: Path) -> None:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=1800
    )
    assert done.returncode == 0, done.stdout + done.stderr
