"""Ranks read the same samples, and a run that goes on says what has changed."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mimo_core.train.facts import SIZES, changes

from .conftest import start

ONE_RANK = ("modules.language.grid={}", "evaluate.samples=4", "train.iterations=1")
ON_RANK_1 = '        import os\n        return "b" if os.environ["RANK"] == "1" else "a"\n'


@pytest.fixture
def site(words_site: Path, tmp_path: Path) -> Path:
    """The ``words`` plugin installed where a test may change it."""
    return Path(shutil.copytree(words_site, tmp_path / "site"))


def test_ranks_with_other_samples_are_named_before_they_train(site: Path, tmp_path: Path) -> None:
    plugin = site / "words_plugin.py"
    digest = f"    @property\n    def digest(self) -> str:\n{ON_RANK_1}\n    def __len__"
    plugin.write_text(plugin.read_text().replace("    def __len__", digest))
    run = start("text_only", folder=tmp_path / "run", site=site)
    assert run.code == 1
    assert "ranks do not read the same: of the train split" in run.errors
    assert "rank 1 (language, pp 1) have 40 entries (digest b)" in run.errors
    assert "training" not in run.screen


def test_a_run_that_goes_on_with_other_plugins_says_so(site: Path, tmp_path: Path) -> None:
    plugin = site / "words_plugin.py"
    note = '    note = "nine words are rare"\n\n    def __len__'
    plugin.write_text(plugin.read_text().replace("    def __len__", note))
    begun = start("text_only", *ONE_RANK, folder=tmp_path / "run", site=site)
    assert begun.code == 0, begun.screen + begun.errors
    assert "nine words are rare" in begun.screen
    metadata = site / "words_plugin-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 1.0", "Version: 1.1"))
    on = (*ONE_RANK[:2], "train.iterations=2")
    longer = start("text_only", *on, folder=tmp_path / "run", site=site)
    assert longer.code == 0, longer.screen + longer.errors
    assert "plugins changed since the checkpoint was saved: words 1.0 -> 1.1" in longer.screen


def test_what_a_checkpoint_stands_on_is_compared() -> None:
    def facts(**other: Any) -> dict[str, Any]:
        samples = {"train": [40, "x"], "validation": [9, None]}
        layout = {"kind": "disjoint", "modules": {"language": {"grid": dict.fromkeys(SIZES, 1)}}}
        same = {"plugins": {"words": "1.0"}, "plugins_digest": "a", "tokenizer": "bytes"}
        return {**same, "samples": samples, "layout": layout, **other}

    saved: Any = SimpleNamespace(**facts())
    assert list(changes(saved, facts())) == []
    wide = {"language": {"grid": {**dict.fromkeys(SIZES, 1), "tp": 2}}}
    now = facts(
        samples={"train": [40, "y"], "validation": [8, None]},
        layout={"kind": "disjoint", "modules": wide},
    )
    assert list(changes(saved, now)) == [
        "the train split changed since the checkpoint was saved (40 samples, now others): the "
        "place in the data means other samples",
        "the validation split changed since the checkpoint was saved (9 samples, now 8): the "
        "place in the data means other samples",
        "language goes on in another grid (tp 1 -> 2): its random numbers (dropout) are drawn anew",
    ]
    with pytest.raises(ValueError, match="saved with another tokenizer"):
        list(changes(saved, facts(tokenizer="other")))
