"""What the plan is shown: the first good samples and the longest line."""

from __future__ import annotations

from pathlib import Path

import pytest
from caption_files import plain_lines, preview, said, write_lines

from mimo_core.planning.plan import make_plan
from mimo_core.testing import raises_code

LONG = {"id": "long", "text": "long " * 200}


def _keys(file: Path) -> list[int]:
    """Numbers of the lines that are shown under ``skip``."""
    return [int(sample.key.rpartition(":")[2]) for sample in preview(file, broken="skip")]


def test_the_first_good_samples(tmp_path: Path) -> None:
    lines = plain_lines(200)
    (tmp_path / "4.png").write_bytes(b"nothing")
    broken = lines[3] | {"image": "4.png"}
    file = write_lines(
        tmp_path / "captions.jsonl", [lines[0], "{", lines[2], broken, *lines[4:], "{"]
    )
    keys = _keys(file)
    assert keys[:4] == [1, 3, 5, 6]
    assert keys[:64] == [key for key in range(1, 67) if key not in (2, 4)]
    with raises_code("captions.broken-lines", count=2):
        preview(file)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_longest_line_wherever_it_is(tmp_path: Path, end: str) -> None:
    lines = plain_lines(5000)
    lines[4000] |= LONG
    file = write_lines(tmp_path / "captions.jsonl", lines)
    file.write_bytes(file.read_bytes().replace(b"\n", end.encode()))
    assert _keys(file) == [*range(1, 65), 4001]
    assert said(preview(file)[-1]) == f"[{LONG['text']}]"


def test_the_longest_csv_record_is_counted_over_its_lines(tmp_path: Path) -> None:
    """None of its lines is the longest; the last record shown and one after it have breaks too."""
    rows = [f'{number},a "text"' for number in range(70)]
    rows[63] = '63,"two\nlines"'
    rows[66] = '66,"two\nlines"'
    rows[68] = '68,"' + "\n".join(['some ""words""'] * 100) + '"'
    rows[69] = "69," + "one line " * 50
    file = tmp_path / "captions.csv"
    file.write_text("\n".join(["id,text", *rows]))
    shown = preview(file)
    assert [sample.key for sample in shown[63:]] == ["captions.csv:65", "captions.csv:72"]
    assert said(shown[-1]).count('some "words"') == 100


def test_a_longest_line_that_is_broken_or_was_shown_is_not_shown(tmp_path: Path) -> None:
    lines = plain_lines(100)
    broken = write_lines(tmp_path / "broken.jsonl", [*lines, "no JSON" * 99])
    assert _keys(broken) == [*range(1, 65)]
    assert len(preview(broken)) == 64, "nor is it told under stop"
    few = write_lines(tmp_path / "few.jsonl", [lines[0], lines[1] | LONG, lines[2]])
    assert _keys(few) == [1, 2, 3]


def test_nothing_good_is_an_error(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "captions.jsonl", ["{", "{"])
    with raises_code("captions.broken-lines", count=2, lines=(1, 2)):
        preview(file, broken="skip")


RECIPE = """\
modules:
  vision:
    plugin: radio
    options: {hidden_size: 16, layers: 1, heads: 2, image_size: 16, max_image_size: 32,
              patch_size: 4}
  language:
    plugin: nemotron
    options: {pattern: "M*-", hidden_size: 32, attention_heads: 4, mamba_heads: 4,
              mamba_head_dim: 16, mamba_state: 8, mamba_groups: 2}
data: {plugin: captions, options: {file: FILE, broken: skip}}
train: {iterations: 1, micro_batch_size: 1, global_batch_size: 1, sequence_length: 600,
        learning_rate: 1}
"""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("captions.jsonl", "", "captions.jsonl: the file holds no lines to learn from"),
        ("captions.jsonl", "\n \n", "captions.jsonl: the file holds no lines to learn from"),
        ("captions.csv", "id,text\n", "captions.csv: the file holds no lines to learn from"),
        ("captions.csv", "", "captions.csv: the file is empty; a CSV file begins with a header"),
    ],
)
def test_the_plan_refuses_a_file_without_lines(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("FILE", str(tmp_path / name)))
    with pytest.raises(ValueError) as caught:
        make_plan(str(recipe))
    assert message in str(caught.value)


def test_the_plan_refuses_a_longest_line_that_does_not_fit(tmp_path: Path) -> None:
    write_lines(tmp_path / "captions.jsonl", [*plain_lines(99), LONG])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.replace("FILE", str(tmp_path / "captions.jsonl")))
    with pytest.raises(ValueError, match=r"sample captions.jsonl:100 takes 1000 positions"):
        make_plan(str(recipe))
