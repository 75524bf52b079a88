"""A language model whose ranks share every sequence, behind a vision encoder, by the command."""

from __future__ import annotations

import pytest

from .conftest import Run, start

GRID = "modules.language.grid"
# float32 sums in another order, carried on by steps of Adam at a high learning rate.
LOSS_TOLERANCE, NORM_TOLERANCE = 1e-5, 1e-4


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A run on cp 2 x dp 2; its weights trained on, packed, on tp 2 x cp 2 with sequence
    parallelism; and the same of both on one language rank."""
    layouts: dict[str, tuple[str, ...]] = {
        "shared": (f"{GRID}.cp=2", f"{GRID}.dp=2", "train.micro_batch_size=2"),
        "alone": (),
        "packed, shared": (f"{GRID}.tp=2", f"{GRID}.cp=2", "modules.language.packing=true"),
        "packed, alone": ("modules.language.packing=true",),
    }
    folder = tmp_path_factory.mktemp("context")
    begun: dict[str, Run] = {}
    for name, layout in layouts.items():
        first = f"checkpoint.start_from={folder / 'shared'}"
        more = (first, *layout) if "packed" in name else layout
        begun[name] = start("pictures", *more, folder=folder / name.replace(", ", "-"))
        assert begun[name].code == 0, begun[name].screen + begun[name].errors
    return begun


@pytest.mark.parametrize("name", ["", "packed, "])
def test_losses_and_gradients_are_those_of_one_rank(runs: dict[str, Run], name: str) -> None:
    """The norm is over all parameters, the encoder's among them, before clipping."""
    shared, alone = runs[f"{name}shared"], runs[f"{name}alone"]
    assert len(alone.losses) == 2
    assert shared.losses == pytest.approx(alone.losses, rel=LOSS_TOLERANCE)
    assert shared.norms == pytest.approx(alone.norms, rel=NORM_TOLERANCE)


@pytest.mark.parametrize("name", ["", "packed, "])
def test_evaluation_says_what_one_rank_says(runs: dict[str, Run], name: str) -> None:
    shared, alone = runs[f"{name}shared"], runs[f"{name}alone"]
    told, expected = shared.summary, alone.summary
    assert told["evaluation"] == pytest.approx(expected["evaluation"], rel=LOSS_TOLERANCE)
    assert told["answers"] == expected["answers"] != []
