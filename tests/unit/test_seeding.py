"""Seeds: from the run's seed and the module's own name, wherever the module runs."""

from __future__ import annotations

from typing import Any

import pytest

from ..distributed.rank_functions.cpu_platform import launch

# sha256 of seed, prefix and stage; a change here changes every run there is.
LANGUAGE_SEED = 33792352
VISION_SEED = 1749154576


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    """What four ranks draw: (tp, dp), (tp, pp), or two modules of tp 2."""
    return [rank["rng"] for rank in launch()]


def draws(ranks: list[dict[str, Any]], layout: str, what: str) -> list[Any]:
    return [rank["draws"][layout][what] for rank in ranks]


def test_a_seed_is_the_same_on_every_machine_and_in_every_version(ranks):
    for rank in ranks:
        assert rank["seeds"]["language"] == LANGUAGE_SEED
        assert rank["seeds"]["vision"] == VISION_SEED


def test_seeds_of_other_names_and_runs_are_others(ranks):
    seeds = ranks[0]["seeds"]
    assert len({seeds["language"], seeds["vision"], seeds["run"], *seeds["joined"]}) == 6


def test_replicas_draw_alike_and_tensor_ranks_differ_inside_the_tracker_only(ranks):
    tracked, default = (draws(ranks, "alone", what) for what in ("tracked", "default"))
    assert tracked[0] == tracked[2]
    assert tracked[1] == tracked[3]
    assert tracked[0] != tracked[1]
    assert default == [default[0]] * 4
    host = draws(ranks, "alone", "host")
    assert host == [host[0]] * 4


def test_pipeline_stages_draw_differently(ranks):
    for what in ("tracked", "default", "host"):
        drawn = draws(ranks, "stages", what)
        assert drawn[0] != drawn[2], what
    default = draws(ranks, "stages", "default")
    assert (default[0], default[2]) == (default[1], default[3])


def test_another_module_changes_nothing_for_the_language_model(ranks):
    """Moved from ranks 0 and 1 to ranks 2 and 3 by an encoder before it."""
    assert draws(ranks, "beside", "module") == ["vision", "vision", "language", "language"]
    for what in ("tracked", "default", "host"):
        alone, beside = draws(ranks, "alone", what), draws(ranks, "beside", what)
        assert beside[2:] == alone[:2], what
        assert beside[0] != alone[0], what


def test_a_fork_of_the_tracker_leaves_the_outer_state_alone(ranks):
    for rank in ranks:
        for told in rank["draws"].values():
            assert told["restored"] is True
            assert told["tracked"] not in (told["again"], told["default"])
        outer, around = rank["around fork"]
        assert around == outer
