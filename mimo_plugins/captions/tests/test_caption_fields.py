"""Fields of a file that nothing reads, and encoders that get no image because of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mimo_plugin_captions.fields import field_notes
from mimo_plugin_captions.options import Options
from mimo_plugin_captions.preview import GOOD, preview_samples
from PIL import Image

from mimo_core.errors import MimoError
from mimo_core.planning.plan import make_plan

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
