"""A frozen tower begins the next step while the language model ends this one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from ..helpers.runs import Run, start

FROZEN = ("modules.vision.freeze=[encoder]", "train.iterations=4", "validation.interval=2")


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Run:
    recorded = ("--profile", "profile.step=3")
    return well(start("tiny", *FROZEN, *recorded, folder=tmp_path_factory.mktemp("early") / "run"))


def well(run: Run) -> Run:
    assert run.code == 0, run.screen + run.errors
    return run


def test_losses_and_norms_are_those_of_one_process(apart: Run, tmp_path: Path) -> None:
    """To the last bit, with an evaluation between the rows that were begun and their step."""
    whole = well(start("tiny", *FROZEN, "placement=colocated", folder=tmp_path / "run"))
    assert (apart.losses, apart.norms) == (whole.losses, whole.norms)


def test_the_first_rows_of_a_step_were_begun_in_the_one_before(apart: Run) -> None:
    events = json.loads((apart.folder / "profile" / "timeline.json").read_text())["traceEvents"]
    names = Counter(event["name"] for event in events if event.get("cat") == "forward")
    # Of the encoder and of the language model, and what the next step begins with.
    assert names["forward 0"] == names["forward 3"] == 2
    assert names["next step"] == 1
    (early,) = (event for event in events if event.get("name") == "next step")
    own = [event for event in events if event.get("pid") == early["pid"]]
    (last,) = (event for event in own if event.get("name") == "forward 3")
    (gradients,) = (event for event in own if event.get("name") == "backward 3")
    assert last["ts"] + last["dur"] <= early["ts"]
    assert early["ts"] + early["dur"] <= gradients["ts"], "while those are waited for"


def test_graphs_of_its_tower_are_not_read_on_cpus(apart: Run, tmp_path: Path) -> None:
    graphs = "modules.vision.megatron={cuda_graph_impl: local}"
    where = "profile.step=2"
    plain = well(start("tiny", *FROZEN, graphs, where, folder=tmp_path / "run"))
    unread = "no profile will be written: profile.enabled is false; add --profile"
    assert unread in " ".join(plain.screen.split())
    assert (plain.losses, plain.norms) == (apart.losses, apart.norms)
    assert "vision: cuda_graph_impl is not read on CPUs" in plain.screen
