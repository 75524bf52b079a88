"""Which checkpoints of a folder are complete, and which of them is the newest."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import attrs
import pytest

from mimo_core.checkpoint.directory import (
    TRACKER,
    announce,
    checkpoint_path,
    clear,
    fallback_hint,
    newest,
    repair_tracker,
)
from mimo_core.checkpoint.manifest import (
    FORMAT,
    MANIFEST,
    Manifest,
    file_facts,
    files_of,
    read_manifest,
    write_manifest,
)
from mimo_core.recipe import load_text
from mimo_core.recipe.converter import plain

from ..helpers.fake_plugins import RECIPE
from ..helpers.problems import refused

RUN = "0123456789abcdef" * 2


def manifest(iteration: int, **facts: Any) -> Manifest:
    """Of a checkpoint of nothing."""
    recipe = plain(load_text(RECIPE, "recipe").recipe)
    modules = {name: {"grid": {"tp": 1}, "rank_offset": 0} for name in recipe["modules"]}
    values = {
        "format": FORMAT,
        "run": RUN,
        "iteration": iteration,
        "consumed_samples": 8 * iteration,
        "recipe": recipe,
        "layout": {"kind": "non_colocated", "device": "cpu", "world_size": 1, "modules": modules},
        "plugins": {},
        "plugins_digest": "",
        "versions": {"torch": "2.14.1"},
        "environment": {"NVTE_FUSED_ATTN": "1"},
        "tokenizer": "",
        "samples": {},
        "optimizer": "fully_reshardable",
        "tensors": {},
        "objects": (),
        "files": {},
        "random_states": ("random-00000.json",),
    }
    return Manifest(**values | facts)


def save(path: Path, saved: Manifest) -> None:
    """Write a manifest that lists the files as they are."""
    write_manifest(path, attrs.evolve(saved, files=file_facts(path, files_of(path))))


def checkpoint(checkpoints: Path, iteration: int, **facts: Any) -> Path:
    """A complete checkpoint of a few files."""
    path = checkpoint_path(checkpoints, iteration)
    path.mkdir(parents=True)
    (path / "__0_0.distcp").write_bytes(b"weights of %d" % iteration)
    (path / ".metadata").write_bytes(b"places of %d" % iteration)
    (path / "common.pt").write_bytes(b"arguments of %d" % iteration)
    (path / "random-00000.json").write_text(f'{{"torch": "{iteration}"}}')
    save(path, manifest(iteration, **facts))
    return path


def break_no_manifest(path: Path) -> None:
    (path / MANIFEST).unlink()


def break_half_written_manifest(path: Path) -> None:
    (path / MANIFEST).rename(path / f"{MANIFEST}.new")


def break_file_missing(path: Path) -> None:
    (path / "__0_0.distcp").unlink()


def break_file_cut_off(path: Path) -> None:
    os.truncate(path / "__0_0.distcp", 3)


BROKEN = {
    break_no_manifest: "mimo.json, which is written last, is missing",
    break_half_written_manifest: "mimo.json, which is written last, is missing",
    break_file_missing: "__0_0.distcp is missing",
    break_file_cut_off: "__0_0.distcp has 3 of 12 bytes",
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
    assert found.usable().iteration == 2
    assert found.told == (f"{tmp_path}/iter_0000004 is no complete checkpoint: {BROKEN[breaks]}",)
    assert (tmp_path / "iter_0000004").exists(), "looking deletes nothing"
    repair_tracker(found)
    assert (tmp_path / TRACKER).read_text() == "2"
    assert newest(tmp_path) == found


def test_a_folder_without_a_complete_checkpoint_has_none(tmp_path: Path) -> None:
    assert newest(tmp_path).iteration is None and not newest(tmp_path).told
    assert newest(tmp_path / "missing").iteration is None
    (tmp_path / "iter_0000002").mkdir()
    (tmp_path / TRACKER).write_text("2")
    found = newest(tmp_path)
    assert found.iteration is None and len(found.told) == 1
    repair_tracker(found)
    assert not (tmp_path / TRACKER).exists(), "stock code would load what it names"


def test_a_person_may_name_an_earlier_one(tmp_path: Path) -> None:
    for iteration in (1, 2, 4):
        checkpoint(tmp_path, iteration)
    assert newest(tmp_path).iteration == 4, "a tracker that a copy left behind"
    (tmp_path / TRACKER).write_text("2\n")
    found = newest(tmp_path)
    assert found.iteration == 2
    assert found.told == (f"{tmp_path}/iter_0000004 is later, but {TRACKER} names iteration 2",)
    assert fallback_hint(tmp_path, 4).endswith(f"echo 2 > {tmp_path / TRACKER}")
    assert "there is none before it" in fallback_hint(tmp_path, 1)


@pytest.mark.parametrize("copied", [False, True])
def test_an_earlier_one_stays_the_chosen_one_where_the_folder_is_copied(
    tmp_path: Path, copied: bool
) -> None:
    """A copy has other times, in any order."""
    folder = tmp_path / "run"
    for iteration in (1, 2, 4):
        checkpoint(folder, iteration)
    (folder / TRACKER).write_text("2\n")
    if copied:
        folder = shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
        os.utime(folder / TRACKER, (1e9, 1e9))
    assert newest(folder).iteration == 2


def test_a_tracker_that_was_not_yet_written_does_not_count(tmp_path: Path) -> None:
    """The run was killed between the manifest and the tracker; or before the manifest."""
    checkpoint(tmp_path, 2)
    checkpoint(tmp_path, 5)
    (tmp_path / TRACKER).write_text("2")
    announce(tmp_path, 4)
    assert newest(tmp_path).iteration == 2
    checkpoint(tmp_path, 4)
    found = newest(tmp_path)
    assert found.iteration == 4 and len(found.told) == 1, "5 is of a part that was given up"
    repair_tracker(found)
    assert (tmp_path / TRACKER).read_text() == "4"
    assert newest(tmp_path) == found


@pytest.mark.parametrize("text", ["²", "4" * 5000, "4 saving", "-4", "4 saving 5 saving 6"])
def test_a_tracker_of_anything_names_nothing(tmp_path: Path, text: str) -> None:
    checkpoint(tmp_path, 2)
    (tmp_path / TRACKER).write_text(text)
    (tmp_path / "iter_²").mkdir()
    (tmp_path / "iter_4").mkdir()
    assert newest(tmp_path).iteration == 2 and not newest(tmp_path).told


@pytest.mark.parametrize("version", [2, FORMAT + 1])
def test_a_manifest_of_another_version_is_not_guessed_at(tmp_path: Path, version: int) -> None:
    path = checkpoint(tmp_path, 2)
    values = json.loads((path / MANIFEST).read_text())
    del values["checksum"]
    (path / MANIFEST).write_text(json.dumps(values | {"format": version}))
    with refused("checkpoint.other-format", format=version, expected=FORMAT, checkpoint=str(path)):
        newest(tmp_path)


def test_a_manifest_says_what_was_written(tmp_path: Path) -> None:
    tensors = {"language_model.embedding": {"shape": [265, 32], "dtype": "float32"}}
    path = checkpoint(tmp_path, 7, tensors=tensors, samples={"train": (3, None)})
    read = read_manifest(path)
    assert read.tensors == tensors and read.files["__0_0.distcp"]["bytes"] == 12
    assert (read.iteration, read.consumed_samples, read.run) == (7, 56, RUN)
    assert read.samples == {"train": (3, None)}
    assert read == attrs.evolve(
        manifest(7, tensors=tensors, samples={"train": (3, None)}), files=read.files
    )


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
    assert gone[0] == MANIFEST and len(gone) == 6
    assert path.is_dir() and not list(path.iterdir())
