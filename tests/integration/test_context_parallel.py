"""A language model whose ranks share every sequence, behind a vision encoder, by the command."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from ..helpers.runs import Run, start

pytestmark = pytest.mark.long  # test_parity.py judges cp 2 in every run of the tests

GRID = "modules.language.grid"
# float32 sums in another order, carried on by steps of Adam at a high learning rate.
LOSS_TOLERANCE, NORM_TOLERANCE = 1e-5, 1e-4


LAYOUTS: dict[str, tuple[str, ...]] = {
    "shared": (f"{GRID}.cp=2", f"{GRID}.dp=2", "train.micro_batch_size=2"),
    "alone": (),
    "packed, shared": (f"{GRID}.tp=2", f"{GRID}.cp=2", "modules.language.packing=true"),
    "packed, alone": ("modules.language.packing=true",),
}
CASES = ["", "packed, "]
Begin = Callable[[str], Run]


@pytest.fixture(scope="module")
def begin(tmp_path_factory: pytest.TempPathFactory) -> Begin:
    """Starts a run once: on cp 2 x dp 2; with its weights, packed, on tp 2 x cp 2 with sequence
    parallelism; and the same of both on one language rank."""
    folder = tmp_path_factory.mktemp("context")

    @cache
    def run(name: str) -> Run:
        layout = LAYOUTS[name]
        if "packed" in name:
            layout = (f"checkpoint.init_from={run('shared').folder}", *layout)
        begun = start("pictures", *layout, folder=folder / name.replace(", ", "-"))
        assert begun.code == 0, begun.screen + begun.errors
        return begun

    return run


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_those_of_one_rank(begin: Begin, name: str) -> None:
    """The norm is over all parameters, the encoder's among them, before clipping."""
    shared, alone = begin(f"{name}shared"), begin(f"{name}alone")
    assert len(alone.losses) == 2
    assert shared.losses == pytest.approx(alone.losses, rel=LOSS_TOLERANCE)
    assert shared.norms == pytest.approx(alone.norms, rel=NORM_TOLERANCE)
    # Ranks that share a sequence do not do its work twice, and padding is none.
    work = [[row["flops"] for row in run.summary["iterations"]] for run in (shared, alone)]
    assert work[0] == work[1] and work[0][0]["language"] > 0


@pytest.mark.parametrize("name", CASES)
def test_evaluation_says_what_one_rank_says(begin: Begin, name: str) -> None:
    shared, alone = begin(f"{name}shared"), begin(f"{name}alone")
    told, expected = shared.summary, alone.summary
    assert told["evaluation"] == pytest.approx(expected["evaluation"], rel=LOSS_TOLERANCE)
    assert told["answers"] == expected["answers"] != []
