"""``broken: skip``: what is left out, and that every image is decoded once on a machine."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from caption_files import cut, plain_lines, write_lines, write_picture

COUNT = 24
CUT, NOT_JSON, TWICE = 3, 5, 9
"""Lines that are broken: a picture cut short, no JSON, an id given before."""
PICTURES = 2 * (COUNT - 2)
"""Those of lines that are not broken without them."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Lines with two pictures each, three of them broken."""
    lines = []
    for number, line in enumerate(plain_lines(COUNT), 1):
        names = [f"{number}-{place}.{suffix}" for place, suffix in enumerate(("png", "jpg"))]
        for place, name in enumerate(names):
            write_picture(tmp_path / "data" / name, 40, 40, seed=2 * number + place)
        lines.append(line | {"images": names})
    cut(tmp_path / "data" / f"{CUT}-1.jpg")
    lines[TWICE - 1]["id"] = lines[0]["id"]
    told = [line if number != NOT_JSON else "{" for number, line in enumerate(lines, 1)]
    return write_lines(tmp_path / "data" / "captions.jsonl", told)


def start(file: Path, broken: str = "skip") -> subprocess.Popen[str]:
    """Builds both splits in a process of its own, as a rank does."""
    code = f"""
from mimo_core import DatasetConfig
from mimo_plugin_captions import plugin
options = plugin.options_class()(file={str(file)!r}, broken={broken!r}, held_out=0.4)
data = DatasetConfig(plugin="captions", options=options)
splits = [plugin.build_dataset(data, split) for split in ("train", "validation")]
print("lines", sorted(int(s[i].key.split(":")[1]) for s in splits for i in range(len(s))))
print("notes", [split.note for split in splits])
print("digests", [split.digest for split in splits])
"""
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def build(file: Path) -> str:
    """What :func:`start` printed."""
    process = start(file)
    out, errors = process.communicate(timeout=1800)
    assert process.returncode == 0, errors
    return out


def decoded(out: str) -> int:
    """Images that were decoded to verify them."""
    return sum(map(int, re.findall(r"decoding (\d+) images", out)))


def kept(out: str) -> list[int]:
    (lines,) = re.findall(r"^lines \[(.*)\]$", out, re.M)
    return [int(line) for line in lines.split(", ")]


GOOD = [line for line in range(1, COUNT + 1) if line not in (CUT, NOT_JSON, TWICE)]


def test_broken_lines_and_pictures_are_left_out_and_told(file: Path) -> None:
    out = build(file)
    assert kept(out) == GOOD
    assert f"3 of {COUNT} lines are broken and left out" in out
    note = f"3 of {COUNT} lines are left out ({file}; each in the log)"
    assert f"notes {[note, note]}" in out
    told = re.findall(r"captions\.jsonl:(\d+): (.*)", out)
    assert [int(line) for line, _ in told] == [CUT, NOT_JSON, TWICE]
    reasons = [why for _, why in told]
    assert reasons[0].startswith(f"image {CUT}-1.jpg: image file is truncated")
    assert reasons[1].startswith("not JSON")
    assert reasons[2] == "id 'plain-0' is that of line 1 too"
    assert f"{len(GOOD)} samples with {2 * len(GOOD)} images" in out


def test_ranks_of_a_machine_decode_once_and_agree(file: Path, cache: Path) -> None:
    """Four ranks that all have found that nothing is known yet."""
    build(file)
    (archive,) = cache.glob("*.npz")
    archive.unlink()
    with archive.with_suffix(".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ranks = [start(file) for _ in range(4)]
        for rank in ranks:
            assert rank.stdout is not None
            assert "waiting for another process" in rank.stdout.readline()
    outs = [rank.communicate(timeout=1800)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * 4
    assert sum(map(decoded, outs)) == PICTURES
    assert len({out[out.index("captions: /") :] for out in outs}) == 1, "all tell the same"


def test_a_later_run_decodes_only_what_has_changed(file: Path) -> None:
    """Nothing; then a picture that was mended; then one that was damaged, its size kept."""
    assert decoded(build(file)) == PICTURES
    again = build(file)
    assert decoded(again) == 0 and kept(again) == GOOD
    assert f"captions.jsonl:{CUT}: image {CUT}-1.jpg: image file is truncated" in again
    write_picture(file.parent / f"{CUT}-1.jpg", 40, 40)
    mended = build(file)
    assert decoded(mended) == 1
    assert kept(mended) == sorted([*GOOD, CUT])
    other = file.parent / f"{COUNT}-0.png"
    other.write_bytes(bytes(other.stat().st_size))
    damaged = build(file)
    assert decoded(damaged) == 1
    assert kept(damaged) == sorted([*GOOD, CUT])[:-1]


def test_a_cache_that_is_of_no_use_does_no_harm(file: Path, cache: Path) -> None:
    right = build(file)
    (archive,) = cache.glob("*.npz")
    for content in (b"", b"no archive", archive.read_bytes()[:-40]):
        archive.write_bytes(content)
        assert kept(build(file)) == GOOD
        assert archive.stat().st_size > len(content), "written anew"
    cache.rename(cache.with_name("away"))
    cache.write_text("a file where the folder would be")
    out = build(file)
    assert out[out.index("lines [") :] == right[right.index("lines [") :]
    assert decoded(out) == decoded(right)
    assert "cannot remember which images are good" in out


def test_the_cache_is_where_xdg_says(
    file: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    build(file)
    assert list((tmp_path / "home/.cache/mimo-plugin-captions").glob("*.npz"))
    assert not cache.exists() and not os.path.exists("relative")


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    lines = []
    for number, line in enumerate(plain_lines(2)):
        write_picture(tmp_path / f"{number}.png", 40, 40)
        cut(tmp_path / f"{number}.png")
        lines.append(line | {"image": f"{number}.png"})
    process = start(write_lines(tmp_path / "captions.jsonl", lines))
    _, errors = process.communicate(timeout=1800)
    assert process.returncode == 1
    assert "2 of 2 lines are broken" in errors
    assert "captions.jsonl:2: image 1.png: image file is truncated" in errors


def test_nothing_is_noted_where_nothing_is_left_out(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "captions.jsonl", plain_lines(COUNT))
    assert "notes [None, None]" in build(file)


def test_the_note_tells_where_the_log_has_not_all(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "captions.jsonl", [*plain_lines(COUNT), *["{"] * 1001])
    assert "1001 of 1025 lines are left out" in (out := build(file))
    assert "; the first 1000 in the log)" in out
