"""Damage in a checkpoint is found, and its file named, before anything in it is read."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from mimo_core.checkpoint.checksums import checksum_of_bytes
from mimo_core.checkpoint.compatibility import find_resumable_checkpoint
from mimo_core.checkpoint.directory import TRACKER, LatestCheckpoint, checkpoint_path, newest
from mimo_core.checkpoint.manifest import DAMAGED, FORMAT, MANIFEST, Manifest, read_manifest
from mimo_core.cli.export import find_checkpoint
from mimo_core.errors import CheckpointError, MimoError, RecipeError
from mimo_core.recipe.converter import plain
from mimo_core.reporting.run_directory import RunDirectory
from mimo_core.train.checkpointing.integrity import check_format
from mimo_core.weights.checkpoint_with_frozen import CompletedCheckpoint
from mimo_core.weights.integrity import check_files
from mimo_core.weights.warm_start import starting_weights

from ..helpers.problems import refused
from .test_checkpoint_directory import checkpoint, save
from .test_warm_start import plan

FILES = ("__0_0.distcp", ".metadata", "common.pt", "random-00000.json", MANIFEST)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Complete checkpoints of iterations 25 and 30; the tracker names 30."""
    for iteration in (25, 30):
        checkpoint(tmp_path, iteration)
    (tmp_path / TRACKER).write_text("30")
    return tmp_path


def loadable(folder: Path) -> LatestCheckpoint:
    """What a run does before it reads a checkpoint."""
    found = newest(folder).usable()
    if found.manifest is not None:
        check_files(found.path, found.manifest)
    return found


def refusal(folder: Path, code: str = DAMAGED, **values: Any) -> str:
    """The message with which a run refuses a checkpoint, for this cause."""
    with refused(code, CheckpointError, **values) as caught:
        loadable(folder)
    return caught.value.text


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found(folder: Path, name: str) -> None:
    path = folder / "iter_0000030" / name
    saved = path.read_bytes()
    positions = random.Random(name).sample(range(8 * len(saved)), min(8 * len(saved), 200))
    for bit in positions:
        content = bytearray(saved)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        assert f"{folder}/iter_0000030 is damaged: {name} " in refusal(folder), bit
    path.write_bytes(saved)
    assert loadable(folder).iteration == 30
    (folder / TRACKER).write_text("25")
    path.write_bytes(content)
    assert loadable(folder).iteration == 25, "a person went back"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("other", FILES)
def test_a_file_of_another_place_is_found(folder: Path, name: str, other: str) -> None:
    """Of the other iteration, or of the same one under another name."""
    of_25 = folder / "iter_0000025" / other
    of_30 = folder / "iter_0000030" / other
    for source in (of_25, of_30):
        target = folder / "iter_0000030" / name
        kept = target.read_bytes()
        if source == target:
            continue
        shutil.copyfile(source, target)
        found = newest(folder)
        if found.refused is None and found.iteration == 25:
            assert name in found.told[0], "shorter, as from an unfinished copy"
        else:
            assert name in refusal(folder)
        target.write_bytes(kept)
    assert loadable(folder).iteration == 30


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_missing_or_short_makes_a_checkpoint_incomplete(
    folder: Path, name: str
) -> None:
    path = folder / "iter_0000030" / name
    saved = path.read_bytes()
    for length in (0, 1, len(saved) - 1):
        path.write_bytes(saved[:length])
        if name == MANIFEST:
            assert MANIFEST in refusal(folder), "it is renamed into place: damage, no attempt"
        else:
            assert loadable(folder).iteration == 25
            assert f"{name} has {length} of {len(saved)} bytes" in newest(folder).told[0]
    path.write_bytes(saved + b"\0")
    assert name in refusal(folder)
    path.unlink()
    assert loadable(folder).iteration == 25
    assert name in newest(folder).told[0]


@pytest.mark.parametrize("name", ["__0_1.distcp", "inner/.metadata", "random-00001.json", "a.pt"])
def test_a_file_that_was_not_saved_and_may_be_read_is_found(folder: Path, name: str) -> None:
    path = folder / "iter_0000030" / name
    path.parent.mkdir(exist_ok=True)
    shutil.copyfile(folder / "iter_0000030" / "__0_0.distcp", path)
    refusal(folder, checkpoint=str(folder / "iter_0000030"), file=name)


def test_other_files_are_reported(folder: Path) -> None:
    (folder / "iter_0000030" / "README").write_text("mine")
    found = loadable(folder)
    assert found.iteration == 30
    assert found.told == (f"{found.path} holds files that nothing reads: README",)


def test_the_whole_checkpoint_of_another_iteration_is_found(folder: Path) -> None:
    shutil.rmtree(folder / "iter_0000030")
    shutil.copytree(folder / "iter_0000025", folder / "iter_0000030")
    facts = {"checkpoint": str(folder / "iter_0000030"), "file": MANIFEST}
    assert "iteration 25" in refusal(folder, **facts)


@pytest.mark.parametrize("tracker", ["30", "", None])
def test_a_checkpoint_of_another_run_is_not_mistaken_for_one_of_this(
    folder: Path, tracker: str | None
) -> None:
    other = "f" * 32
    if tracker is None:
        (folder / TRACKER).unlink()
    else:
        (folder / TRACKER).write_text(tracker)
    path = folder / "iter_0000030"
    save(path, attrs.evolve(read_manifest(path), run=other))
    earlier = str(folder / "iter_0000025")
    assert other in refusal(folder, "checkpoint.other-run", newest=str(path), earlier=earlier)
    (folder / TRACKER).write_text("25")
    assert loadable(folder).told == (f"{path} is later, but of another run",)


def test_what_is_damaged_stops_and_says_how_to_go_back(folder: Path) -> None:
    (folder / "iter_0000030" / MANIFEST).write_text("{}")
    said = refusal(folder)
    assert said.endswith(f"to go on from there: echo 25 > {folder / TRACKER}")
    assert (folder / "iter_0000030").exists()
    shutil.rmtree(folder / "iter_0000025")
    assert "there is none before it to go back to" in refusal(folder)


EDITS: dict[str, Callable[[Any], Any]] = {
    "number": lambda value: 12,
    "negative": lambda value: -1,
    "nothing": lambda value: None,
    "text": lambda value: "x",
    "list": lambda value: [{}],
    "true": lambda value: True,
    "mapping": lambda value: {"x": 1},
    "deleted": lambda value: ...,
    "inner": lambda value: (
        {**value, next(iter(value), "x"): {"y": []}} if isinstance(value, dict) else [value]
    ),
}
MAY_BE_ANYTHING = {
    # Text of any kind; what they are compared with decides.
    *((key, "text") for key in ("optimizer", "tokenizer", "plugins_digest")),
    ("consumed_samples", "number"),
}


def edited(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change a manifest's values, with the checksum that they have then."""
    values = json.loads((path / MANIFEST).read_text())
    del values["checksum"]
    edit(values)
    text = json.dumps(values, indent=1).removesuffix("\n}")
    checksum = checksum_of_bytes(text.encode())
    (path / MANIFEST).write_text(f'{text},\n "checksum": "{checksum}"\n}}\n')


@pytest.mark.parametrize("kind", EDITS)
@pytest.mark.parametrize("field", [field.name for field in attrs.fields(Manifest)])
def test_an_edited_manifest_is_found(folder: Path, field: str, kind: str) -> None:
    """Also where the person who edits it knows how its checksum is made."""

    def edit(values: dict[str, Any]) -> None:
        value = EDITS[kind](values[field])
        if value is ...:
            del values[field]
        else:
            values[field] = value

    before = read_manifest(folder / "iter_0000030")
    edited(folder / "iter_0000030", edit)
    if (field, kind) in MAY_BE_ANYTHING or (field in ("left_out", "origins") and kind == "deleted"):
        assert loadable(folder).iteration == 30
        return
    path = folder / "iter_0000030"
    if field == "format" and kind in ("number", "negative"):
        expected = FORMAT
        refusal(folder, "checkpoint.other-format", checkpoint=str(path), expected=expected)
    else:
        refusal(folder, checkpoint=str(path), file=MANIFEST)
    assert before.iteration == 30


@pytest.mark.parametrize(
    "edit",
    [
        lambda values: values["files"].update({"../../x": values["files"]["common.pt"]}),
        lambda values: values["files"].update({"/etc/passwd": values["files"]["common.pt"]}),
        lambda values: values["files"]["common.pt"].update(xxh3_128="0"),
        lambda values: values["files"]["common.pt"].update(bytes=-1),
        lambda values: values["random_states"].append("random-00001.json"),
        lambda values: values["random_states"].clear(),
        lambda values: values["layout"].update(world_size=0),
        lambda values: values["layout"]["modules"].pop("vision"),
        lambda values: values["layout"]["modules"]["vision"].update(rank_offset=1),
        lambda values: values["layout"]["modules"]["vision"]["grid"].update(tp=0),
        lambda values: values["recipe"].pop("train"),
        lambda values: values["recipe"]["train"].update(seed="x"),
        lambda values: values["tensors"].update(a={"shape": [-1], "dtype": "float32"}),
        lambda values: values["tensors"].update(a={"shape": [1], "dtype": "__x.y"}),
        lambda values: values["left_out"].update(a={"shape": [1], "dtype": "float32", "origin": 0}),
        lambda values: values.update(unknown=1),
        lambda values: values.update(run="x" * 32),
    ],
)
def test_an_edit_inside_a_manifest_is_found(folder: Path, edit: Callable[[Any], None]) -> None:
    edited(folder / "iter_0000030", edit)
    assert "was changed: " in refusal(folder, file=MANIFEST)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"format": true}', "\x00", "2"])
def test_a_manifest_of_anything_is_found(folder: Path, text: str) -> None:
    (folder / "iter_0000030" / MANIFEST).write_text(text)
    refusal(folder, checkpoint=str(folder / "iter_0000030"), file=MANIFEST)


@pytest.mark.parametrize("what", ["resume", "init_from", "export"])
def test_nothing_is_read_of_a_damaged_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    run = tmp_path / "run"
    path = checkpoint(run / "checkpoints", 3, recipe=plain(plan(tmp_path).recipe))
    manifest = (path / MANIFEST).read_bytes()
    (path / MANIFEST).write_bytes(manifest.replace(b'"seed": 1234', b'"seed": 1235'))
    with refused(DAMAGED, CheckpointError, checkpoint=str(path), file=MANIFEST):
        if what == "resume":
            find_resumable_checkpoint(plan(tmp_path), RunDirectory(run))
        elif what == "init_from":
            starting_weights(plan(tmp_path, f"checkpoint.init_from={run}"), done=None)
        else:
            CompletedCheckpoint(path, {})
    (path / MANIFEST).write_bytes(manifest)
    (path / ".metadata").write_bytes(b"xlaces of 3")
    with refused(DAMAGED, CheckpointError, checkpoint=str(path)) as caught:
        CompletedCheckpoint(path, {})
    assert ".metadata holds other bytes" in caught.value.text


@pytest.mark.parametrize("what", ["resume", "init_from", "export"])
@pytest.mark.parametrize("name", [*FILES, "nothing left"])
def test_half_a_file_is_refused_by_name(tmp_path: Path, name: str, what: str) -> None:
    """The only checkpoint: a run must not begin anew in its place. (``mimo verify`` reads weights
    as ``init_from`` does.)"""
    run = tmp_path / "run"
    path = checkpoint(run / "checkpoints", 3, recipe=plain(plan(tmp_path).recipe))
    (run / "checkpoints" / TRACKER).write_text("3")
    if name == "nothing left":
        name = "common.pt"
        (path / name).unlink()
    else:
        os.truncate(path / name, (path / name).stat().st_size // 2)
    with pytest.raises(MimoError) as caught:
        if what == "resume":
            find_resumable_checkpoint(plan(tmp_path), RunDirectory(run))
        elif what == "init_from":
            starting_weights(plan(tmp_path, f"checkpoint.init_from={run}"), done=None)
        else:
            find_checkpoint(run)
    assert caught.value.code in (DAMAGED, "checkpoint.incomplete")
    assert name in caught.value.text and path.name in caught.value.text


def test_a_save_that_was_interrupted_is_no_reason_to_stop(tmp_path: Path) -> None:
    """It has no manifest yet."""
    path = checkpoint(tmp_path / "run" / "checkpoints", 3, recipe=plain(plan(tmp_path).recipe))
    (path / MANIFEST).unlink()
    assert (
        find_resumable_checkpoint(plan(tmp_path), RunDirectory(tmp_path / "run")).manifest is None
    )


def test_the_checkpoint_of_frozen_weights_is_compared_too(folder: Path) -> None:
    base, path = (checkpoint_path(folder, iteration) for iteration in (25, 30))
    origin = {"kind": "checkpoint", "path": str(base), "digest": "", "module": ""}
    save(path, attrs.evolve(read_manifest(path), origins=(origin,)))
    assert loadable(folder).iteration == 30
    (base / "__0_0.distcp").write_bytes(b"weights of 2X")
    assert "iter_0000025 is damaged: __0_0.distcp" in refusal(folder)
    shutil.rmtree(base)
    assert str(path) in refusal(folder, "checkpoint.frozen-weights", place=str(base))


def test_a_recipe_error_is_not_damage(tmp_path: Path) -> None:
    checkpoint(tmp_path / "run" / "checkpoints", 30, recipe=plain(plan(tmp_path).recipe))
    with refused("checkpoint.beyond-end", RecipeError, iteration=30):
        find_resumable_checkpoint(plan(tmp_path), RunDirectory(tmp_path / "run"))


@pytest.mark.parametrize("parallel", ["", "_000", "_000_000"])
def test_a_file_of_megatrons_old_format_is_refused_by_name(folder: Path, parallel: str) -> None:
    """Also if the manifest lists it: Megatron would load it instead."""
    path = folder / "iter_0000030"
    saved = read_manifest(path)
    (path / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    save(path, saved)
    check_format(loadable(folder))
    old = path / f"mp_rank_00{parallel}" / "model_optim_rng.pt"
    old.parent.mkdir()
    old.write_bytes(b"")
    save(path, saved)
    with refused("checkpoint.foreign-content", CheckpointError, file=str(old)):
        check_format(loadable(folder))
