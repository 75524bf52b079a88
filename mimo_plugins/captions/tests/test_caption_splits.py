"""Splits, the digest that ranks compare, and files that change."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from caption_files import cut, dataset, plain_lines, said, write_lines, write_picture
from mimo_plugin_captions.image_files import COMPARED

from mimo_core import Dataset, MimoError, Split
from mimo_core.testing import raises_code

SPLITS: tuple[Split, ...] = ("train", "validation")


def _texts(file: Path, split: Split, **options: Any) -> list[str]:
    found = dataset(file, split, **options)
    return [said(found[index]) for index in range(len(found))]


def test_importing_and_previewing_is_light(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.jpg", 4, 5)
    file = write_lines(tmp_path / "captions.jsonl", [{"id": 1, "text": "x", "image": "a.jpg"}])
    code = f"""
import sys
from mimo_core import DatasetConfig
from mimo_plugin_captions import plugin
print("PIL" in sys.modules)
data = DatasetConfig(plugin="captions", options=plugin.options_class()(file={str(file)!r}))
print([sample.content[0].shape for sample in plugin.preview_samples(data)])
print(sorted({{"torch", "numpy"}} & set(sys.modules)))
"""
    environ = {"PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:3] == ["False", "[(4, 5)]", "[]"]


def test_splits_share_the_samples_out(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "captions.jsonl", plain_lines(1000))
    train, validation = (_texts(file, split, held_out=0.25) for split in SPLITS)
    # Of 1000 fair draws the share is within 0.05 but once in 3000 files; this is one file.
    assert len(validation) == pytest.approx(250, abs=50)
    assert sorted(train + validation) == sorted(f"[text {number}]" for number in range(1000))


def test_a_split_follows_from_the_id_alone(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "captions.jsonl", plain_lines(60))
    held_out = {text.strip("[]") for text in _texts(file, "validation")}
    more = [*plain_lines(200)[60:], *reversed(plain_lines(60))]
    other = write_lines(tmp_path / "elsewhere" / "more.jsonl", more)
    known = {f"text {number}" for number in range(60)}
    assert {text.strip("[]") for text in _texts(other, "validation")} & known == held_out
    assert held_out


def test_an_empty_split_is_an_error(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "captions.jsonl", plain_lines(2))
    assert len(dataset(file, "train")) == 2
    with raises_code("captions.empty-split", split="validation", samples=2):
        dataset(file, "validation")


def test_it_is_a_dataset_of_the_contract(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "captions.jsonl", plain_lines(20))
    found = dataset(file)
    assert isinstance(found, Dataset)
    assert found.metric == "exact_captions"
    for index in (-1, len(found)):
        with pytest.raises(IndexError):
            found[index]


@pytest.fixture
def pictured(tmp_path: Path) -> Path:
    """Forty lines, each with a picture of its own."""
    lines: list[dict[str, Any] | str] = []
    for number, line in enumerate(plain_lines(40)):
        write_picture(tmp_path / "first" / f"{number}.png", 4, 4, seed=number)
        lines.append(line | {"image": f"{number}.png"})
    return write_lines(tmp_path / "first" / "captions.jsonl", lines)


def _change_a_text(file: Path) -> None:
    file.write_text(file.read_text().replace("text 7", "text 8"))


def _change_a_path(file: Path) -> None:
    file.write_text(file.read_text().replace('"7.png"', '"8.png"'))


def _change_a_picture(file: Path) -> None:
    write_picture(file.parent / "7.png", 4, 5)


def _change_an_id(file: Path) -> None:
    file.write_text(file.read_text().replace('"plain-7"', '"plain-77"'))


def _break_a_picture(file: Path) -> None:
    (file.parent / "7.png").write_bytes(bytes((file.parent / "7.png").stat().st_size))


def _replace_a_picture_by_one_of_the_same_size_and_time(file: Path) -> None:
    path = file.parent / "7.png"
    before = path.stat()
    for seed in range(1000, 2000):  # the sizes of compressed pictures vary
        write_picture(path, 4, 4, seed=seed)
        if path.stat().st_size == before.st_size:
            break
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        *(_change_a_text, _change_a_path, _change_a_picture, _change_an_id, _break_a_picture),
        _replace_a_picture_by_one_of_the_same_size_and_time,
    ],
)
def test_the_digest_tells_other_samples(pictured: Path, tmp_path: Path, change: Any) -> None:
    """Two machines with copies of the same files agree; where one differs, they do not."""
    shutil.copytree(pictured.parent, tmp_path / "second")
    second = tmp_path / "second" / "captions.jsonl"
    os.utime(tmp_path / "second" / "7.png", (1, 1))
    digests = [dataset(file, broken="skip").digest for file in (pictured, second)]
    assert digests[0] == digests[1]
    shutil.copytree(pictured.parent, tmp_path / "third")
    third = tmp_path / "third" / "captions.jsonl"
    change(third)
    splits = [dataset(third, split, broken="skip").digest for split in SPLITS]
    assert splits != [dataset(pictured, split, broken="skip").digest for split in SPLITS]


@pytest.mark.parametrize(
    ("size", "place"),
    [
        *((2 * COMPARED, place) for place in (0, COMPARED - 1, COMPARED, 2 * COMPARED - 1)),
        *((9 * COMPARED + 5, place) for place in (0, COMPARED - 1, 8 * COMPARED + 5, -1)),
    ],
)
def test_the_digest_covers_both_ends_of_image_files(tmp_path: Path, size: int, place: int) -> None:
    """Of images of up to twice the compared bytes every byte counts."""
    content = bytearray(size)
    digests = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        line = {"id": 1, "text": "a text", "image": "1.jpg"}
        file = write_lines(folder / "captions.jsonl", [line])
        (folder / "1.jpg").write_bytes(content)
        digests.append(dataset(file, held_out=0.01).digest)
        content[place] = 1
    assert digests[0] != digests[1]


def test_a_line_that_changes_under_a_run_is_named(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "captions.jsonl", plain_lines(20))
    found = dataset(file)
    with file.open("a") as more:
        more.write('{"id": "late", "text": "added while the run reads"}\n')
    assert said(found[0]).startswith("[text ")
    file.write_text(file.read_text().replace("text", "TEXT"))
    with raises_code("captions.file-changed"):
        found[0]


def test_a_broken_picture_stops_where_it_is_asked_for(pictured: Path) -> None:
    found = dataset(pictured)
    line = int(found[0].key.rpartition(":")[2])
    path = pictured.parent / f"{line - 1}.png"
    cut(path)
    sample = found[0]
    (medium,) = sample.media("image")
    with pytest.raises(ValueError, match=rf"{path.name}: image file is truncated"):
        medium.load(None)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=rf"captions.jsonl:{line}: image {path.name}: neither a"):
        found[0]


@pytest.mark.parametrize("broken", ["stop", "skip"])
def test_the_policy_holds_for_samples_without_a_learned_token_too(
    tmp_path: Path, broken: str
) -> None:
    """The engine reads it from the dataset: only there is known what cutting leaves."""
    file = write_lines(tmp_path / "captions.jsonl", plain_lines(24))
    for split in SPLITS:
        assert dataset(file, split, broken=broken, held_out=0.4).broken == broken


def _remove(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _make_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _make_a_link_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


@pytest.mark.parametrize("policy", ["stop", "skip"])
@pytest.mark.parametrize(
    "change", [cut, _remove, _empty, _make_a_folder, _make_a_pipe, _make_a_link_loop]
)
def test_a_picture_that_changes_under_a_run_is_named(
    pictured: Path, change: Any, policy: str
) -> None:
    """Before its sample is made: by line. After that: by name; the engine adds the line. A sample
    cannot be left out any more then, as ranks would differ: ``skip`` stops too."""
    found = dataset(pictured, broken=policy)
    line = int(found[0].key.rpartition(":")[2])
    path = pictured.parent / f"{line - 1}.png"
    (medium,) = found[0].media("image")
    change(path)
    with pytest.raises(ValueError, match=rf"^{path.name}: "):
        medium.load(None)
    try:
        (later,) = found[0].media("image")
    except MimoError as error:
        assert error.text.startswith(f"captions.jsonl:{line}: image {path.name}: ")
        expected = "it was good when the run began" if policy == "skip" else "leave such lines out"
        assert expected in error.text
    else:
        assert change is cut, "its header is whole"
        with pytest.raises(ValueError, match=rf"^{path.name}: image file is truncated"):
            later.load(None)
