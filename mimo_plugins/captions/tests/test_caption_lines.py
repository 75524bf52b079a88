"""JSONL and CSV lines: what they may hold, and what is said of broken ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from caption_files import (
    dataset,
    plain_lines,
    preview,
    said,
    samples,
    write_lines,
    write_picture,
)
from mimo_plugin_captions.options import Options
from mimo_plugin_captions.preview import preview_samples

from mimo_core import MimoError
from mimo_core.recipe.converter import structure
from mimo_core.testing import raises_code


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures ``a.png`` (2x3), ``b.jpg`` (4x5) and ``sub/c.png`` (6x7); a link to itself."""
    for name, (height, width) in {"a.png": (2, 3), "b.jpg": (4, 5), "sub/c.png": (6, 7)}.items():
        write_picture(tmp_path / name, height, width)
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({}, "[cat]"),
        ({"image": None, "prompt": None}, "[cat]"),
        ({"images": []}, "[cat]"),
        ({"image": "a.png"}, "# [cat]"),
        ({"images": "a.png"}, "# [cat]"),
        ({"images": ["a.png", "b.jpg", "a.png"]}, "# # # [cat]"),
        ({"image": "a.png", "prompt": "what? "}, "# what?  [cat]"),
        ({"image": "a.png", "prompt": "<image>what? "}, "# what?  [cat]"),
        ({"image": "a.png", "prompt": "this <image>?"}, "this  # ? [cat]"),
        (
            {"images": ["a.png", "b.jpg"], "prompt": "<image>or", "text": "<image>no"},
            "# or # [no]",
        ),
        ({"image": "a.png", "text": "a <image> b"}, "[a ] # [ b]"),
        ({"id": 17}, "[cat]"),
        ({"unknown": {"field": 1}}, "[cat]"),
        ({"text": "žluťoučký 猫 🐱"}, "[žluťoučký 猫 🐱]"),
    ],
)
def test_what_a_line_may_hold(folder: Path, fields: dict[str, Any], parts: str) -> None:
    file = write_lines(
        folder / "captions.jsonl", [{"id": "x", "text": "cat"} | fields, *plain_lines(30)]
    )
    sample = samples(file)[0]
    assert sample.key == "captions.jsonl:1"
    assert said(sample) == parts


def test_images_come_with_their_sizes_in_order(folder: Path) -> None:
    line = {"id": 1, "images": ["sub/c.png", "b.jpg"], "text": "<image>first<image>"}
    file = write_lines(folder / "captions.jsonl", [line, *plain_lines(30)])
    media = list(samples(file)[0].media("image"))
    assert [medium.shape for medium in media] == [(6, 7), (4, 5)]
    assert [medium.load(None).shape for medium in media] == [(6, 7, 3), (4, 5, 3)]


def test_images_may_lie_in_another_folder(folder: Path, tmp_path: Path) -> None:
    lines = [{"id": 1, "image": "c.png", "text": "x"}, *plain_lines(30)]
    file = write_lines(tmp_path / "lists" / "captions.jsonl", lines)
    (medium,) = samples(file, folder=str(folder / "sub"))[0].media("image")
    assert medium.shape == (6, 7)


def test_fields_may_have_other_names(folder: Path) -> None:
    names = {"id": "key", "text": "answer", "prompt": "question", "image": "file"}
    line = {
        "key": 1,
        "answer": "red",
        "question": "colour? ",
        "file": "a.png",
        "images": ["no.png"],
    }
    lines = [line, *({"key": n + 2, "answer": "text"} for n in range(30))]
    file = write_lines(folder / "captions.jsonl", lines)
    assert said(samples(file, **names)[0]) == "# colour?  [red]"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_csv_is_read_as_jsonl_is(folder: Path, end: str, mark: str) -> None:
    rows = [
        "id,image,text,prompt",
        "1,a.png,cat,",
        '2,,"a ""cat"", or two","what',
        'is it? "',
        "",
        "3,a.png | sub/c.png,both,<image>-<image>",
        *(f"{number + 4},,text {number},,"[:-1] for number in range(30)),
    ]
    table = folder / "captions.csv"
    table.write_bytes((mark + end.join(rows) + end).encode())
    found = samples(table)
    assert [said(sample) for sample in found[:3]] == [
        "# [cat]",
        f'what{end}is it?  [a "cat", or two]',
        "# - # [both]",
    ]
    assert [sample.key for sample in found[:4]] == [f"captions.csv:{n}" for n in (2, 3, 6, 7)]
    assert len(found) == 33


def test_jsonl_may_have_a_mark_and_blank_lines(tmp_path: Path) -> None:
    lines = [json.dumps(line) for line in plain_lines(40)]
    file = tmp_path / "captions.jsonl"
    file.write_bytes(("\ufeff" + "\r\n\r\n".join(lines)).encode())
    assert [sample.key for sample in samples(file)][:2] == ["captions.jsonl:1", "captions.jsonl:3"]


GOOD = {"id": "x", "text": "cat"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": 1, "text": "cat"', "not JSON: Expecting ',' delimiter (column 24)"),
        ("[1, 2]", "expected a JSON object {...}, got list"),
        ('{"id": 1, "text": "cat", "text": "dog"}', "'text' is given more than once"),
        ('{"id": 1, "text": "cat", "more": {"a": 1, "a": 2}}', "'a' is given more than once"),
        ({"text": "cat"}, "no field 'id'; filled are: 'text'. data.options.id names the field"),
        ({"id": 1, "txt": "cat"}, "no field 'text'; filled are: 'id', 'txt'. Did you mean 'txt'?"),
        (GOOD | {"text": None}, "no field 'text'"),
        (GOOD | {"text": " \n"}, "field 'text' is empty"),
        (GOOD | {"text": 7}, "field 'text' is 7: expected text"),
        ('{"id": 1, "text": "\\ud800"}', "half a surrogate pair"),
        (GOOD | {"prompt": ["x"]}, "field 'prompt' is [\"x\"]: expected text"),
        (GOOD | {"id": 1.5}, "the id is 1.5: expected text or an integer"),
        (GOOD | {"id": ""}, 'the id is ""'),
        (GOOD | {"image": 3}, "field 'image' is 3: expected the path of an image or several"),
        (GOOD | {"images": ["a.png", 3]}, "field 'images' is [\"a.png\", 3]: expected the path"),
        (GOOD | {"image": "a.png", "images": ["a.png"]}, "both 'image' and 'images' are given"),
        (GOOD | {"image": "d.png"}, "image d.png: there is no such file in "),
        (GOOD | {"image": "sub"}, "image sub: no file, but a folder"),
        (GOOD | {"image": "a.png/b"}, "image a.png/b: there is no such file"),
        (GOOD | {"image": "loop"}, "image loop: there is no such file"),
        (GOOD | {"image": "a\0b"}, "embedded null"),
        (GOOD | {"image": "x" * 5000}, f"image {'x' * 100}…: there is no such file"),
        (GOOD | {"image": "\udcff\ud800"}, r"image \udcff\ud800: 'utf-8' codec"),
        (GOOD | {"id": "\ud800"}, "the id holds half a surrogate pair"),
        (f'{{"id": 1, "text": {"7" * 6000}}}', "not JSON that can be read: an integer of more"),
        (GOOD | {"text": "<image><image>cat"}, "2 markers <image> for 0 images; give one for each"),
        (GOOD | {"image": "a.png", "text": "<image>"}, "nothing to learn"),
        (
            GOOD | {"image": "a.png", "prompt": "<image>", "text": "<image>cat"},
            "2 markers <image> for 1 image;",
        ),
        (GOOD | {"id": "plain-0"}, "id 'plain-0' is that of line 1 too"),
    ],
)
def test_a_broken_line_is_named(folder: Path, line: Any, message: str) -> None:
    file = write_lines(folder / "captions.jsonl", [*plain_lines(30), line])
    with pytest.raises(ValueError) as caught:
        dataset(file)
    assert f"{file}: 1 of 31 lines is broken:\n  captions.jsonl:31: " in str(caught.value)
    assert message in str(caught.value)
    assert "data.options.broken: skip" in str(caught.value)
    with pytest.raises(MimoError) as planned:
        preview_samples(Options(file=str(file)))
    assert message in str(planned.value)


def test_a_line_that_is_no_utf_8_is_named(tmp_path: Path) -> None:
    file = tmp_path / "captions.jsonl"
    file.write_bytes(b'{"id": 1, "text": "ok"}\n{"id": 2, "text": "\xff"}\n')
    with pytest.raises(
        ValueError, match=r"captions.jsonl:2: not UTF-8 text \(byte 20 of the line\)"
    ):
        dataset(file)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x,cat", "captions.csv:3: 2 fields, but the header has 3"),
        ("x,,", "captions.csv:3: no field 'text'; filled are: 'id'."),
        (",,cat", "captions.csv:3: no field 'id'"),
        ('x,,"cat', "captions.csv:3: not CSV: unexpected end of data"),
        ('x,,"cat"dog', "captions.csv:3: not CSV: ',' expected after '\"'"),
        ("x,a.png|d.png,cat", "captions.csv:3: image d.png: there is no such file"),
    ],
)
def test_a_broken_row_is_named(folder: Path, row: str, message: str) -> None:
    file = folder / "captions.csv"
    file.write_text(f"id,image,text\n1,a.png,cat\n{row}\n")
    with pytest.raises(ValueError) as caught:
        dataset(file)
    assert message in str(caught.value)


def test_a_pipe_is_broken_and_not_opened(folder: Path) -> None:
    """Opening it would wait for ever."""
    os.mkfifo(folder / "pipe.png")
    lines = [*plain_lines(30), GOOD | {"image": "pipe.png"}]
    file = write_lines(folder / "captions.jsonl", lines)
    for read in (dataset, preview):
        with pytest.raises(ValueError, match=r"image pipe.png: no file, but a folder, pipe or"):
            read(file)
    assert len(samples(file, broken="skip")) == len(preview(file, broken="skip")) == 30


def test_long_texts_are_read_from_csv_as_from_jsonl(tmp_path: Path) -> None:
    long = "a long text, " * 20_000
    file = tmp_path / "captions.csv"
    rows = [f'1,"{long}"', *(f"{number + 2},text" for number in range(30))]
    file.write_text("\n".join(["id,text", *rows]))
    assert said(samples(file)[0]) == f"[{long}]"


def test_a_quote_that_is_not_closed_tells_how_far_it_goes(tmp_path: Path) -> None:
    file = tmp_path / "captions.csv"
    file.write_text('id,text\n1,cat\n2,"dog\n3,cow\n4,hen\n')
    with pytest.raises(ValueError, match=r"csv:3: not CSV: .*; an open quote makes one .* 3 lines"):
        dataset(file)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "the file is empty; a CSV file begins with a header"),
        ("id,text\n", {}, "holds no lines"),
        (
            "id,caption\n1,cat\n",
            {},
            "captions.csv:1: the header has no column 'text', only 'id', 'caption'",
        ),
        ("id,text,text\n1,cat,dog\n", {}, "captions.csv:1: the header has 'text' more than once"),
        ("id,text\n1,cat\n", {"image": "file"}, "no column 'file'"),
        ("id,text\n1,cat\n", {"prompt": "question"}, "no column 'question'"),
        ("ID,text\n1,cat\n", {}, "no column 'id', only 'ID', 'text'. Did you mean 'ID'?"),
        ("id;text\n1;cat\n", {}, "its fields are separated by ';', and a CSV file is read with"),
        ("id\ttext\n1\tcat\n", {}, "its fields are separated by '\\t'"),
    ],
)
def test_a_header_that_does_not_fit(
    tmp_path: Path, content: str, options: dict[str, Any], message: str
) -> None:
    file = tmp_path / "captions.csv"
    file.write_text(content)
    with pytest.raises(ValueError) as caught:
        dataset(file, broken="skip", **options)
    assert message in str(caught.value)


def test_all_broken_lines_are_told_in_one_error(tmp_path: Path) -> None:
    lines = [*plain_lines(5), *({"id": number} for number in range(13)), "{"]
    file = write_lines(tmp_path / "captions.jsonl", lines)
    with pytest.raises(ValueError) as caught:
        dataset(file)
    message = str(caught.value)
    assert "14 of 19 lines are broken" in message
    assert [f"captions.jsonl:{n}: " in message for n in range(5, 17)] == [
        False,
        *[True] * 10,
        False,
    ]
    assert "… and 4 more" in message


def test_a_named_image_field_that_no_line_has(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "captions.jsonl", plain_lines(30))
    with raises_code("captions.unknown-field", field="photo", option="image"):
        dataset(file, image="photo")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "file",
            "captions.txt",
            "must name a file that ends in .jsonl or .csv, not 'captions.txt'",
        ),
        ("file", "none.jsonl", "must name a file that is there; /"),
        ("folder", "nowhere", "must name a folder that is there; /"),
        ("held_out", 1.0, "must be a share between 0 and 1, both excluded, not 1.0"),
        ("text", "", "must be the name of a field or column, not empty"),
        ("broken", "ignore", "expected one of 'stop', 'skip', got 'ignore'"),
        ("limit", 3, "unknown key 'limit'"),
        ("prompt", "text", "options text and prompt name the same field 'text'"),
        ("image", "id", "options id and image name the same field 'id'"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, key: str, value: Any, message: str) -> None:
    """Found when the recipe is structured, at the place of the option."""
    file = write_lines(tmp_path / "captions.jsonl", plain_lines(3))
    options, problems = structure(Options, {"file": str(file)} | {key: value}, ("data", "options"))
    assert options is None
    (problem,) = problems
    where = () if "the same field" in message else (key,)
    assert problem.path == ("data", "options", *where)
    assert message in problem.message
