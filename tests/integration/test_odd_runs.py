"""Every file and folder of a run folder as something that cannot be read: a run goes on past it, or
one line names it. No run begins anew because it may not see what it has saved."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from mimo_core.checkpoint.directory import TRACKER
from mimo_core.checkpoint.manifest import MANIFEST
from mimo_core.cli import mimo, pretrain
from mimo_core.errors import problems_in
from mimo_core.launch import launcher

from ..helpers.paths import RECIPES
from ..helpers.runs import Run
from ..unit.test_odd_files import bounds, device, fifo, link_loop  # noqa: F401
from ..unit.test_permissions import unprivileged  # noqa: F401

pytestmark = pytest.mark.long

RECIPE = str(RECIPES / "tiny.yaml")
CHECKPOINT = "checkpoints/iter_0000004"
PARTS = (
    *("", "checkpoints", CHECKPOINT, f"{CHECKPOINT}/{MANIFEST}", f"checkpoints/{TRACKER}"),
    *("recipe.yaml", "summary.json", ".lock", "logs"),
)
READ_BY_EXPORT = (f"{CHECKPOINT}/.metadata", f"{CHECKPOINT}/__0_0.distcp")
COMMANDS: dict[str, tuple[str, ...]] = {
    "resume": ("mimo-pretrain", RECIPE, "--run-dir", "odd"),
    "init_from": ("mimo", "plan", RECIPE, "checkpoint.init_from=odd"),
    "export": ("mimo", "export", "odd", "out"),
}


def closed(path: Path) -> None:
    path.chmod(0)


def unlisted(path: Path) -> None:
    path.chmod(0o311 if path.is_dir() else 0o200)


def replaced(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def odd(path: Path) -> None:
        path.rename("before")
        make(path)

    odd.__name__ = make.__name__
    return odd


KINDS = (closed, unlisted, *map(replaced, (fifo, device, link_loop, Path.mkdir)))


class Launched(Exception):
    """A run would start its ranks."""


@pytest.fixture
def odd(
    tiny: Run, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    request.getfixturevalue("bounds")
    request.getfixturevalue("unprivileged")

    def launched(*_: object) -> None:
        raise Launched

    monkeypatch.setattr(launcher, "_Nurseries", lambda _: nullcontext())
    monkeypatch.setattr(launcher, "_attempts", launched)
    shutil.copytree(tiny.folder, "odd")
    yield Path("odd")
    for path in (Path("odd"), *map(Path("odd").joinpath, PARTS)):
        if path.exists() and not path.is_symlink():
            path.chmod(0o700)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("part", [*PARTS, *READ_BY_EXPORT])
@pytest.mark.parametrize("way", COMMANDS)
def test_an_odd_part_of_a_run_folder_is_named_or_does_not_matter(
    way: str,
    part: str,
    kind: Callable[[Path], None],
    odd: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if part in READ_BY_EXPORT and way != "export":
        pytest.skip("ranks read it")
    path = odd / part
    if kind.__name__ == "mkdir" and path.is_dir():
        pytest.skip("it is a folder")
    kind(path)
    monkeypatch.setattr(sys, "argv", list(COMMANDS[way]))
    with pytest.raises((Launched, SystemExit)) as end:
        (pretrain if way == "resume" else mimo).main()
    out, said = capsys.readouterr()
    if isinstance(end.value, Launched):
        assert "going on after iteration 4" in out
        return
    code = end.value.code
    if way != "resume" and not code:  # each needs the checkpoint
        return
    assert code == 2 and "odd" in said and len(said) < 1500, said
    assert problems_in(said.strip())[0].code, "every refusal has a code"
    assert "Traceback" not in said and said.count("\n") <= 8, said
