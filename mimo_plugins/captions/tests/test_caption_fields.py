"""Fields of a file that nothing reads, and encoders that get no image because of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mimo_plugin_captions.fields import field_notes, marker_notes
from mimo_plugin_captions.options import Options
from mimo_plugin_captions.preview import GOOD, preview_samples
from PIL import Image

from mimo_core.errors import MimoError
from mimo_core.planning.plan import make_plan
from mimo_core.testing import raises_code as refused

HERE = Path(__file__).parent
RECIPE = str(HERE / "captions_run.yaml")


def write(folder: Path, field: str, lines: int = 3, **more: object) -> Path:
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    file = folder / "samples.jsonl"
    records = [{"id": at, field: "a.png", "text": "x", **more} for at in range(lines)]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


@pytest.mark.parametrize("field", ["file_name", "Image", "image_path", " image", "img"])
def test_a_field_of_image_files_is_pointed_at(tmp_path: Path, field: str) -> None:
    file = write(tmp_path, field)
    advice = f"write data.options.image: {field!r}"
    pointed = f"{field!r} (its values are names of image files there: {advice})"
    assert field_notes(Options(file=str(file))) == [
        f"{file}: nothing reads these fields: {pointed}"
    ]
    with pytest.raises(MimoError) as caught:
        make_plan(RECIPE, [f"data.options.file={file}"])
    assert "none of the 3 samples that plugin 'captions' shows has one" in str(caught.value)
    assert pointed in str(caught.value)
    assert field_notes(Options(file=str(file), image=field)) == []
    assert all(
        list(sample.media("image"))
        for sample in preview_samples(Options(file=str(file), image=field))
    )


def test_a_blank_in_the_header_of_a_csv_file_is_pointed_at(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    file = tmp_path / "samples.csv"
    file.write_text("id, image,text\n1,a.png,x\n2,,y\n")
    (note,) = field_notes(Options(file=str(file)))
    assert "' image' (its values are names of image files there: write data.options.image" in note


def test_fields_are_listed_once_and_near_ones_named(tmp_path: Path) -> None:
    file = write(tmp_path, "image", width=3, Prompt="p", masks=["a.png"])
    assert field_notes(Options(file=str(file))) == [
        f"{file}: nothing reads these fields: 'masks' (its values are names of image files there), "
        "'Prompt' (near 'prompt': write data.options.prompt: 'Prompt'), 'width'"
    ]
    plan = make_plan(RECIPE, [f"data.options.file={file}"])
    assert plan.data_notes == tuple(field_notes(Options(file=str(file))))


def test_a_field_that_names_no_file_is_only_near(tmp_path: Path) -> None:
    file = write(tmp_path, "images_", lines=1)
    (tmp_path / "a.png").unlink()
    (note,) = field_notes(Options(file=str(file)))
    assert note.endswith("'images_' (near 'image': write data.options.image: 'images_')")


def test_a_file_whose_fields_are_all_read_has_no_notes(tmp_path: Path) -> None:
    assert field_notes(Options(file=str(write(tmp_path, "image", prompt="p")))) == []


def test_an_image_far_down_the_file_feeds_the_encoder(tmp_path: Path) -> None:
    file = write(tmp_path, "image", lines=1)
    text = "".join(
        json.dumps({"id": f"t{at}", "text": "a text that is longer"}) + "\n"
        for at in range(3 * GOOD)
    )
    file.write_text(text + file.read_text())
    assert make_plan(RECIPE, [f"data.options.file={file}"]).preview[-1].encoders["vision"] > 0


SPELLINGS = (
    *("<Image>", "<IMAGE>", "<img>", "<image_1>", "<image 2>", "< image >", "<images>", "<image/>"),
    *("</image>", "<|image|>", "<|image_pad|>", "<image_token>", "[image]", "[IMG]", "{image}"),
)


@pytest.mark.parametrize("field", ["prompt", "text"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_images_with_another_spelling_of_the_marker_alone_are_broken(
    tmp_path: Path, spelling: str, field: str
) -> None:
    """The images would come first, and the spelling would be characters."""
    file = write(tmp_path, "image", lines=1, **{field: f"a {spelling} b"})
    with refused("captions.broken-lines") as caught:
        preview_samples(Options(file=str(file)))
    assert f"samples.jsonl:1: 1 image and {spelling}, which is no marker" in str(caught.value)
    file = write(tmp_path, "image", lines=1, **{field: f"<image> and <image> a {spelling} b"})
    with refused("captions.broken-lines") as caught:
        preview_samples(Options(file=str(file)))
    assert f"2 markers <image> for 1 image (it has {spelling} too)" in str(caught.value)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_another_spelling_of_the_marker_in_a_text_is_a_note(tmp_path: Path, spelling: str) -> None:
    """Of the plan, with the first line and the number of the samples that were read."""
    lines = [
        {"id": 0, "text": "x"},
        {"id": 1, "image": "a.png", "prompt": "<image> is ", "text": f"like {spelling}"},
        {"id": 2, "text": f"x {spelling}"},
        {"id": 3, "image": "a.png", "prompt": "<image>", "text": "x"},
    ]
    file = write(tmp_path, "image")
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert marker_notes(Options(file=str(file))) == [
        f"samples.jsonl:2: {spelling} is no marker and becomes characters; an image stands where a "
        "text has <image>. Such texts: 2 of the first 4 samples"
    ]
    plan = make_plan(RECIPE, [f"data.options.file={file}"])
    assert any("is no marker" in note for note in plan.data_notes)


@pytest.mark.parametrize("text", ["<image>", "an image", "a < b", "<b>", "imagine [1]", "(image)"])
def test_other_texts_are_not_taken_for_markers(tmp_path: Path, text: str) -> None:
    file = write(tmp_path, "image", prompt=f"<image>{text.replace('<image>', '')}")
    assert marker_notes(Options(file=str(file))) == []


@pytest.mark.parametrize(
    "line",
    [
        "1,a.png,a cat",
        "7,a.png,cat",
        "x,a.png|b.png,cat",
        "first,second,a cat that sits",
        "0.5,b,c",
    ],
)
def test_a_csv_file_without_a_header_is_named_as_such(tmp_path: Path, line: str) -> None:
    file = tmp_path / "samples.csv"
    file.write_text(f"{line}\n{line}\n")
    with refused("captions.invalid-header", line=1, columns=tuple(line.split(","))) as caught:
        field_notes(Options(file=str(file)))
    assert "the first line is no header but data (" in str(caught.value)


@pytest.mark.parametrize("header", ["ID,image,caption", "name,file,words", "id,1,a b c"])
def test_a_header_of_other_names_is_no_data(tmp_path: Path, header: str) -> None:
    file = tmp_path / "samples.csv"
    file.write_text(f"{header}\n1,a.png,a cat that sits\n")
    with refused("captions.unknown-field", line=1):
        field_notes(Options(file=str(file)))
