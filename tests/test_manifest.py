"""Which checkpoints of a folder are complete, and which of them is the newest."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import attrs
import pytest

from mimo_core.checkpoints import (
    FORMAT,
    MANIFEST,
    TRACKER,
    Manifest,
    checkpoint_path,
    clear,
    newest,
    put_tracker_right,
    read_manifest,
    sizes,
    way_back,
    write_manifest,
)
from mimo_core.errors import MimoError


def manifest(iteration: int, **facts: Any) -> Manifest:
    """Of a checkpoint of nothing."""
    module = {"grid": {}, "first_rank": 0}
    values = {
        "format": FORMAT,
        "iteration": iteration,
        "consumed_samples": 8 * iteration,
        "recipe": {},
        "layout": {
            "kind": "disjoint",
            "device": "cpu",
            "world_size": 1,
            "modules": {"language": module},
        },
        "plugins": {},
        "plugins_digest": "",
        "tokenizer": "",
        "samples": {},
        "optimizer": "fully_reshardable",
        "tensors": {},
        "objects": (),
        "files": {},
        "random_states": (),
    }
    return Manifest(**values | facts)


def checkpoint(checkpoints: Path, iteration: int, **facts: Any) -> Path:
    """A complete checkpoint of one file."""
    path = checkpoint_path(checkpoints, iteration)
    path.mkdir(parents=True)
    (path / "__0_0.distcp").write_bytes(b"weights")
    write_manifest(path, manifest(iteration, files=sizes(path), **facts))
    return path


def break_no_manifest(path: Path) -> None:
    (path / MANIFEST).unlink()


def break_half_written_manifest(path: Path) -> None:
    (path / MANIFEST).rename(path / f"{MANIFEST}.new")


def break_file_missing(path: Path) -> None:
    (path / "__0_0.distcp").unlink()


def break_file_cut_off(path: Path) -> None:
    (path / "__0_0.distcp").write_bytes(b"wei")


def break_other_iteration(path: Path) -> None:
    write_manifest(path, attrs.evolve(read_manifest(path), iteration=3))


def break_manifest_of_another(path: Path) -> None:
    (path / MANIFEST).write_text("[]")


def break_manifest_without_entries(path: Path) -> None:
    (path / MANIFEST).write_text(json.dumps({"format": FORMAT}))


BROKEN = {
    break_manifest_of_another: "mimo.json says no format",
    break_manifest_without_entries: "mimo.json lacks some of its entries",
    break_no_manifest: "mimo.json, which is written last, is missing",
    break_half_written_manifest: "mimo.json, which is written last, is missing",
    break_file_missing: "__0_0.distcp is missing",
    break_file_cut_off: "__0_0.distcp has 3 of 7 bytes",
    break_other_iteration: "its mimo.json is of iteration 3",
}


@pytest.mark.parametrize("breaks", BROKEN)
@pytest.mark.parametrize("tracker", ["4", "", None, "release", b"\xff\xfe"])
def test_what_is_not_complete_is_left_out_and_told(tmp_path: Path, breaks, tracker) -> None:
    """A kill before the manifest leaves a tracker of the one before or an empty one; and whatever
    happens to a disk afterwards leaves one that names what is damaged."""
    checkpoint(tmp_path, 2)
    checkpoint(tmp_path, 1)
    breaks(checkpoint(tmp_path, 4))
    if tracker is not None:
        text = tracker if isinstance(tracker, bytes) else tracker.encode()
        (tmp_path / TRACKER).write_bytes(text)
    found = newest(tmp_path)
    assert found.iteration == 2
    assert found.told == (f"{tmp_path}/iter_0000004 is no complete checkpoint: {BROKEN[breaks]}",)
    assert (tmp_path / "iter_0000004").exists(), "looking deletes nothing"
    put_tracker_right(found)
    assert (tmp_path / TRACKER).read_text() == "2"
    assert newest(tmp_path) == found


def test_a_folder_without_a_complete_checkpoint_has_none(tmp_path: Path) -> None:
    assert newest(tmp_path).iteration is None and not newest(tmp_path).told
    assert newest(tmp_path / "missing").iteration is None
    (tmp_path / "iter_0000002").mkdir()
    (tmp_path / TRACKER).write_text("2")
    found = newest(tmp_path)
    assert found.iteration is None and len(found.told) == 1
    put_tracker_right(found)
    assert not (tmp_path / TRACKER).exists(), "stock code would load what it names"


def test_a_person_may_name_an_earlier_one(tmp_path: Path) -> None:
    for iteration in (1, 2, 4):
        checkpoint(tmp_path, iteration)
    assert newest(tmp_path).iteration == 4, "a tracker that a copy left behind"
    (tmp_path / TRACKER).write_text("2\n")
    found = newest(tmp_path)
    assert found.iteration == 2
    assert found.told == (f"{tmp_path}/iter_0000004 is later, but {TRACKER} names iteration 2",)
    assert way_back(tmp_path, 4).endswith(f"echo 2 > {tmp_path / TRACKER}")
    assert "there is none before it" in way_back(tmp_path, 1)


def test_a_tracker_that_was_not_yet_written_does_not_count(tmp_path: Path) -> None:
    """The run was killed between the manifest and the tracker."""
    checkpoint(tmp_path, 2)
    (tmp_path / TRACKER).write_text("2")
    os.utime(tmp_path / TRACKER, (1e9, 1e9))
    checkpoint(tmp_path, 4)
    found = newest(tmp_path)
    assert (found.iteration, found.told) == (4, ())
    put_tracker_right(found)
    assert newest(tmp_path) == found


def test_a_manifest_of_a_later_version_is_not_guessed_at(tmp_path: Path) -> None:
    path = checkpoint(tmp_path, 2)
    values = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps(values | {"format": FORMAT + 1}))
    said = rf"has format {FORMAT + 1}, and this version .* reads format {FORMAT}; use"
    with pytest.raises(MimoError, match=said):
        newest(tmp_path)


def test_a_manifest_says_what_was_written(tmp_path: Path) -> None:
    tensors = {"language_model.embedding": {"shape": [265, 32], "dtype": "float32"}}
    path = checkpoint(tmp_path, 7, tensors=tensors, random_states=("random-00000.json",))
    read = read_manifest(path)
    assert read.tensors == tensors and read.files == {"__0_0.distcp": 7}
    assert (read.iteration, read.consumed_samples) == (7, 56)
    assert list(read.random_states) == ["random-00000.json"]


def test_what_an_unfinished_save_left_goes_the_manifest_first(tmp_path, monkeypatch) -> None:
    """So that old and new files are never one checkpoint, wherever clearing is cut off."""
    path = checkpoint(tmp_path, 2)
    (path / "inner").mkdir()
    (path / "inner" / "file").write_text("")
    unlink, gone = Path.unlink, []

    def watched(self: Path, missing_ok: bool = False) -> None:
        gone.append(self.name)
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", watched)
    clear(path)
    assert gone[0] == MANIFEST and len(gone) == 3
    assert path.is_dir() and not list(path.iterdir())
