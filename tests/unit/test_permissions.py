"""Places that a user may not read or write: one line names each, with status 2, before a rank."""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from mimo_core.checkpoint.manifest import MANIFEST
from mimo_core.errors import MimoError
from mimo_core.weights.export import export

from .test_odd_files import FILES, FOLDERS, PLAN, RECIPE, RUN, refused

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="has no capabilities")

_VERSION = 0x20080522
"""Of the capabilities' layout."""
_IGNORE_MODES = 1 << 1 | 1 << 2
"""``CAP_DAC_OVERRIDE`` and ``CAP_DAC_READ_SEARCH``."""
WRITTEN: dict[str, tuple[str, ...]] = {
    "run folder": (*RUN, "--run-dir", "odd"),
    "folder of run folders": (*RUN, "--run-dir", "odd/run"),
    "checkpoints": (*RUN, "--run-dir", "run", "checkpoint.directory=../odd"),
    "folder of checkpoints": (*RUN, "--run-dir", "run", "checkpoint.directory=../odd/all"),
    "runs without a name": RUN,
}
"""Commands that write to ``odd``, by what that is."""


@pytest.fixture(autouse=True)
def unprivileged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working directory of a user for whom modes count: root ignores them."""
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(RECIPE)
    Image.new("RGB", (16, 16)).save("0.png")
    lines = [{"id": f"s{number}", "text": "abc", "image": "0.png"} for number in range(8)]
    Path("data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    before = _capabilities()
    effective, *others = before
    _set_capabilities((effective & ~_IGNORE_MODES, *others))
    try:
        yield
    finally:
        _set_capabilities(before)


def _capabilities() -> tuple[int, ...]:
    """Effective, permitted and inheritable capabilities of this thread, twice 32 each."""
    data = (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capget((ctypes.c_uint32 * 2)(_VERSION, 0), data) == 0
    return tuple(data)


def _set_capabilities(values: tuple[int, ...]) -> None:
    header = (ctypes.c_uint32 * 2)(_VERSION, 0)
    assert ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)(*values)) == 0


@pytest.mark.parametrize("mode", [0o000, 0o444], ids=["closed", "no search"])
@pytest.mark.parametrize("what", [*FILES, *FOLDERS])
def test_what_may_not_be_read_is_named(
    what: str, mode: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, words = FILES[what] if what in FILES else ("odd", FOLDERS[what])
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    if what in FOLDERS:
        path.mkdir()
        path.chmod(mode)
    elif what == "config.json of weights":
        pytest.skip("read after the weights, which this folder lacks")
    elif mode == 0:
        path.write_text("{}")
        path.chmod(0)
    else:
        if path.parent == Path():
            pytest.skip("a file in the working directory")
        path.write_text("{}")
        path.parent.chmod(mode)
    said = refused(words, monkeypatch, capsys)
    assert "odd" in said and "ermission" in said, said
    assert "Traceback" not in said and said.count("\n") <= 8 and len(said) < 1500, said


@pytest.mark.parametrize("what", WRITTEN)
def test_what_may_not_be_written_is_named(
    what: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "runs" if what == "runs without a name" else "odd"
    Path(name).mkdir()
    Path(name).chmod(0o555)
    said = refused(WRITTEN[what], monkeypatch, capsys)
    assert name in said and "ermission" in said, said
    assert "Traceback" not in said and said.count("\n") <= 3 and len(said) < 1500, said


def test_an_image_that_may_not_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("0.png").chmod(0)
    said = refused(PLAN, monkeypatch, capsys)
    assert "0.png" in said and "data.jsonl" in said and "ermission" in said, said


def _make(name: str, kind: str) -> None:
    path = Path(name)
    match kind:
        case "file":
            path.write_text("x")
        case "pipe":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path.name)
        case "link":
            path.symlink_to("nowhere")
        case "full":
            (path / "inner").mkdir(parents=True)
        case "closed" | "read only":
            path.mkdir()
            path.chmod(0 if kind == "closed" else 0o555)
        case "checkpoint":
            path.mkdir()
            (path / MANIFEST).touch()


@pytest.mark.parametrize(
    ("kind", "out"),
    [
        *((kind, "odd") for kind in ("file", "pipe", "loop", "link", "full", "closed")),
        *((kind, "odd/out") for kind in ("file", "loop", "closed", "read only", "checkpoint")),
        *(("checkpoint", out) for out in ("odd/inner/out", "odd", "iter_0000009")),
        *(("", out) for out in ("/dev/null", "/dev/null/out", "o" * 300, "/")),
    ],
)
def test_a_place_that_cannot_be_exported_to_is_named(kind: str, out: str) -> None:
    """Each before the checkpoint is read. Files in a checkpoint's folder once made it damaged."""
    _make("odd", kind)
    before = sorted(Path().rglob("*"))
    with pytest.raises(MimoError) as refusal:
        export(Path("no checkpoint"), Path(out), {})
    assert refusal.value.code in ("export.exists", "export.at-checkpoint", "export.not-writable")
    assert refusal.value.values["out"] == str(Path(out)) and "Errno" not in refusal.value.text
    assert sorted(Path().rglob("*")) == before
