"""The README's recipe and files are ones that can be used."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from caption_files import said, write_picture
from mimo_plugin_captions import plugin
from mimo_plugin_captions.options import Options

from mimo_core import DatasetConfig
from mimo_core.planning.plan import make_plan

README = (Path(__file__).parents[1] / "README.md").read_text()


def _block(kind: str) -> str:
    (block,) = re.findall(rf"```{kind}\n(.*?)```", README, re.S)
    return block  # type: ignore[no-any-return]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the README's recipe, files and pictures."""
    for name in ("cat.jpg", "dog.png"):
        write_picture(tmp_path / "data" / "photos" / name, 30, 40)
    (tmp_path / "recipe.yaml").write_text(_block("yaml"))
    for kind, suffix in (("json", "jsonl"), ("csv", "csv")):
        (tmp_path / "data" / f"captions.{suffix}").write_text(_block(kind))
    return tmp_path


def test_the_recipe_can_be_planned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert make_plan("recipe.yaml").graph.data.plugin == "captions"


def _said(file: Path) -> list[str]:
    data = DatasetConfig(plugin="captions", options=Options(file=str(file)))
    return [said(sample) for sample in plugin.preview_samples(data)]


def test_the_files_mean_what_is_said(folder: Path) -> None:
    assert _said(folder / "data" / "captions.jsonl") == [
        "# [A cat on a sofa.]",
        "# What animal is it?\n [A cat.]",
        "# # [A cat, then a dog.]",
        "Is  #  larger than  # ?\n [No.]",
        "[A line of text alone.]",
    ]
    assert _said(folder / "data" / "captions.csv") == [
        "# [A cat on a sofa.]",
        "Is  #  larger than  # ? [No, it is smaller.]",
    ]
