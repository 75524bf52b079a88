"""A run with ``--profile``: an encoder that was made slow, and a language model of two stages."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import pytest

from ..helpers.runs import Run, installed, start, wrapping

MICROBATCHES = 4
RECIPE = ("modules.language.grid.pp=2", "validation.num_samples=4", "checkpoint.enabled=false")
SLOW = 0.25
"""Seconds of a pass that ``slow_plugin`` spends: many times what all other work takes."""


@attrs.frozen(kw_only=True)
class Profiled:
    run: Run
    events: list[dict[str, Any]]
    figures: dict[str, Any]

    def slices(self, rank: int) -> list[dict[str, Any]]:
        """By begin; a slice comes before those within it."""
        found = [one for one in self.events if one["ph"] == "X" and one["tid"] == rank + 1]
        return sorted(found, key=lambda one: (one["ts"], -one["dur"]))


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Profiled:
    site = installed("slow", tmp_path_factory.mktemp("site"))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SLOW", f"{SLOW} {2 * MICROBATCHES + 1} {3 * MICROBATCHES}")
        run = start(
            "tiny",
            *RECIPE,
            *wrapping("slow", "vision"),
            "--profile",
            "profile.torch_profiler=true",
            folder=tmp_path_factory.mktemp("profiled") / "run",
            site=site,
        )
    assert run.code == 0, run.screen + run.errors
    read = [
        json.loads((run.folder / "profile" / f"{name}.json").read_text())
        for name in ("timeline", "figures")
    ]
    return Profiled(run=run, events=read[0]["traceEvents"], figures=read[1])


def test_the_run_is_the_same(profiled: Profiled, tmp_path: Path) -> None:
    """As one that ends before its iteration to record comes, which is told."""
    never = ("--profile", "profile.step=4", "megatron.exit_interval=3")
    old = tmp_path / "run" / "profile" / "kernels-rank-7.json.gz"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"")
    plain = start("tiny", *RECIPE, *never, folder=tmp_path / "run")
    assert plain.code == 0, plain.screen + plain.errors
    assert profiled.run.losses[:3] == plain.losses and profiled.run.norms[:3] == plain.norms
    assert not [*old.parent.iterdir()], "of an earlier profile"
    assert "no profile will be written" not in plain.screen
    assert "no profile was written: profile.step is 4, and this command ran 3" in plain.screen


def test_the_screen_shows_the_shares_and_whom_to_blame(profiled: Profiled) -> None:
    screen = profiled.run.screen
    assert "iteration 3: " in screen and "exposed" not in profiled.run.errors
    for word in ("communication", "waiting", "optimizer"):
        assert word in screen
    (line,) = [line for line in screen.splitlines() if "language waits" in line]
    assert line.endswith("because of rank 0 (vision)")
    assert str(profiled.run.folder / "profile" / "timeline.png") in screen
    folder = profiled.run.folder / "profile"
    assert (folder / "timeline.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in folder.glob("kernels*")) == [
        f"kernels-rank-{rank}.json.gz" for rank in range(3)
    ]


def test_every_microbatch_passes_every_rank_both_ways(profiled: Profiled) -> None:
    for rank in range(3):
        slices = [one for one in profiled.slices(rank) if one["cat"] not in ("exchange", "waiting")]
        passes = Counter((one["cat"], one["args"].get("microbatch")) for one in slices)
        both = [(kind, k) for kind in ("forward", "backward") for k in range(MICROBATCHES)]
        once = [("gradients", None), ("optimizer", None)]
        assert passes == Counter([*both, *once, *[("data", None)] * MICROBATCHES])


def test_a_process_a_module_and_a_thread_a_rank(profiled: Profiled) -> None:
    named = {
        (one["name"], one["args"]["name"], one["pid"])
        for one in profiled.events
        if one["ph"] == "M" and "name" in one["args"]
    }
    assert named == {
        ("process_name", "vision", 1),
        ("process_name", "language", 2),
        ("thread_name", "rank 0 (vision)", 1),
        ("thread_name", "rank 1 (language, pp 0)", 2),
        ("thread_name", "rank 2 (language, pp 1)", 2),
    }


def test_slices_of_a_rank_are_disjoint_or_nested(profiled: Profiled) -> None:
    a_hair = 1e-3  # µs: the times of neighbours come from one clock, differences from rounding
    for rank in range(3):
        around: list[float] = []
        for one in profiled.slices(rank):
            assert one["dur"] >= 0 and one["ts"] >= -a_hair
            while around and around[-1] <= one["ts"] + a_hair:
                around.pop()
            end = one["ts"] + one["dur"]
            assert not around or end <= around[-1] + a_hair, one
            around.append(end)


def test_arrows_go_from_every_send_to_its_receive(profiled: Profiled) -> None:
    ends: dict[int, dict[str, dict[str, Any]]] = {}
    for one in profiled.events:
        if one["ph"] in "sf":
            ends.setdefault(one["id"], {})[one["ph"]] = one
    arrows = Counter(
        (pair["s"]["name"], pair["s"]["tid"] - 1, pair["f"]["tid"] - 1) for pair in ends.values()
    )
    assert arrows == dict.fromkeys(
        [
            ("rows of vision", 0, 1),
            ("activations", 1, 2),
            ("gradients", 2, 1),
            ("gradients of vision", 1, 0),
        ],
        MICROBATCHES,
    )
    for pair in ends.values():
        assert pair["s"]["ts"] < pair["f"]["ts"] and pair["f"]["bp"] == "e"
        for one in pair.values():
            assert any(
                around["ts"] <= one["ts"] <= around["ts"] + around["dur"]
                for around in profiled.slices(one["tid"] - 1)
            ), "an arrow binds to a slice"


def test_shares_add_up_to_the_step(profiled: Profiled) -> None:
    step = profiled.figures["step_seconds"]
    assert step >= profiled.run.summary["iterations"][2]["step_seconds"] > SLOW * MICROBATCHES
    for part in (*profiled.figures["modules"].values(), *profiled.figures["ranks"]):
        assert sum(part["seconds"].values()) == pytest.approx(step, rel=1e-9)
        assert all(seconds >= 0 for seconds in part["seconds"].values())
    for module in profiled.figures["modules"].values():
        waiting = module["seconds"]["waiting"] / step
        assert module["bubble_fraction"] == pytest.approx(waiting)


def test_who_waits_waits_for_the_slow_encoder(profiled: Profiled) -> None:
    vision, first, last = profiled.figures["ranks"]
    assert vision["seconds"]["compute"] > SLOW * MICROBATCHES
    for rank in (first, last):
        assert next(iter(rank["caused_by_seconds"])) == "0"
        # What else the ranks do meanwhile is hidden behind it, at most half on busy cores.
        assert rank["seconds"]["waiting"] > SLOW * MICROBATCHES / 2
    assert next(iter(first["waits_on_seconds"])) == "0"
    assert next(iter(last["waits_on_seconds"])) == "1", "it gets its activations from there"
