"""Ranks read the same samples, and a run that goes on says what has changed."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, local
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from mimo_core.checkpoint.directory import LatestCheckpoint
from mimo_core.planning.plan import make_plan
from mimo_core.train import consistency_checks
from mimo_core.train.checkpointing import resume
from mimo_core.train.checkpointing.resume import ResumeState
from mimo_core.train.checkpointing.run_metadata import SIZES, changes, same_place
from mimo_core.weights.compare import DirectoryMatch, match
from mimo_core.weights.frozen_sources import directory_digest

from ..helpers.fake_plugins import RECIPE, host
from ..helpers.problems import refused
from ..helpers.runs import start
from ..unit.test_safetensors_dir import JOIN, MAP, TOWER, directory

ONE_RANK = ("modules.language.grid={}", "validation.num_samples=4", "train.iterations=1")
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
    assert "of the train split" in run.errors
    assert "rank 1 (language, pp 1) have 40 entries (digest b)" in run.errors
    assert " [launch.other-files]\n" in run.errors
    assert "training" not in run.screen


@pytest.mark.parametrize("odd", [{1}, {2, 3}, {1, 2, 3}])
def test_other_weights_in_a_directory_of_some_machines_are_told_on_all_ranks(
    odd: set[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks are threads, each with its own files; 0 to 3 read the directory."""
    said, read = _begin(odd, tmp_path, monkeypatch)
    assert read == {0, 1, 2, 3}, "no rank opens what its modules do not begin with"
    assert len(said) == 8
    (one,) = set(said)
    first, second = one.split(", but ")
    assert "of the weights of vision in" in first
    assert one.endswith(" [launch.other-files]")
    for rank in range(4):
        assert f"rank {rank} (vision" in (second if rank in odd else first)
    assert "language" not in one


def test_the_same_weights_on_all_machines_are_agreed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The directory of ranks that read nothing of it is nobody's concern.
    assert _begin({6}, tmp_path, monkeypatch)[0] == []


def _begin(
    odd: set[int], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str], set[int]]:
    """What all ranks of a new run raise, and which read a directory for its digest."""
    (folder / "recipe.yaml").write_text(RECIPE)
    plan = make_plan(folder / "recipe.yaml", host=host())
    size, this, told, read = plan.layout.world_size, local(), dict[int, Any](), set[int]()
    ranks = Barrier(size)
    same = match(MAP, directory(folder / "same", TOWER | JOIN))
    others = {name: tensor * 2 for name, tensor in (TOWER | JOIN).items()}
    # Where it lies on other machines under the same path.
    elsewhere = match(MAP, directory(folder / "other", others))
    other = attrs.evolve(elsewhere, directory=same.directory)

    def gather(into: list[Any], mine: Any) -> None:
        told[this.rank] = mine
        ranks.wait(1800)
        into[:] = [told[rank] for rank in range(size)]

    def digest(found: DirectoryMatch) -> str:
        read.add(this.rank)
        return directory_digest(found)

    def begin(rank: int) -> str | None:
        this.rank = rank
        run = ResumeState(
            plan=plan, newest=LatestCheckpoint(checkpoints=folder, manifest=None), weights=None
        )
        build: Any = SimpleNamespace()
        try:
            run.prepare(build)
        except ValueError as error:
            return str(error)
        return None

    world = SimpleNamespace(
        get_rank=lambda: this.rank, get_world_size=lambda: size, all_gather_object=gather
    )
    monkeypatch.setattr(consistency_checks, "dist", world)
    monkeypatch.setattr(consistency_checks, "directory_digest", digest)
    monkeypatch.setattr(
        resume, "directories", lambda *_: {"vision": other if this.rank in odd else same}
    )
    with ThreadPoolExecutor(size) as pool:
        return [said for said in pool.map(begin, range(size)) if said], read


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
        language = {"grid": dict.fromkeys(SIZES, 1), "rank_offset": 0}
        layout = {"kind": "non_colocated", "device": "cpu", "modules": {"language": language}}
        same = {"plugins": {"words": "1.0"}, "plugins_digest": "a", "tokenizer": "bytes"}
        return {**same, "samples": samples, "layout": layout, **other}

    saved: Any = SimpleNamespace(**facts())
    assert list(changes(saved, facts())) == []
    wide = {"language": {"grid": {**dict.fromkeys(SIZES, 1), "tp": 2}, "rank_offset": 0}}
    now = facts(
        samples={"train": [40, "y"], "validation": [8, None]},
        layout={"kind": "non_colocated", "device": "cpu", "modules": wide},
    )
    assert list(changes(saved, now)) == [
        "the train split changed since the checkpoint was saved (40 samples, now others): the "
        "place in the data means other samples",
        "the validation split changed since the checkpoint was saved (9 samples, now 8): the "
        "place in the data means other samples",
        "language goes on in another grid (tp 1 -> 2): its random numbers (dropout) are drawn anew",
    ]
    with refused("checkpoint.other-tokenizer"):
        list(changes(saved, facts(tokenizer="other")))
    # Generators of GPUs and of CPUs have other states.
    saved.random_states = ("random-00000.json",)
    assert same_place(saved, facts(), "language", 0) == "random-00000.json"
    moved = facts(layout={**facts()["layout"], "device": "cuda"})
    assert list(changes(saved, moved)) == [
        "the run was on cpu and goes on on cuda: its random numbers (dropout) are drawn anew"
    ]
    assert same_place(saved, moved, "language", 0) is None
