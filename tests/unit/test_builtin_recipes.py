"""The recipes that come in the package can be planned, and say what their names promise."""

from __future__ import annotations

import pytest

from mimo_core.planning.plan import make_plan
from mimo_core.recipe import builtin

VLM = "nemotron-vlm-8gpu"
PUBLISHED_PATTERN = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"


@pytest.mark.parametrize("name", builtin.names())
def test_every_recipe_of_the_package_can_be_planned(name: str):
    assert make_plan(name).preview


def test_the_large_recipe_is_the_model_it_names():
    """Whole, its language model has the 31.6 billion parameters that were published."""
    plan = make_plan(VLM)
    assert plan.layout.world_size == 8
    modules = plan.graph.descriptions
    assert modules["vision"].num_parameters == pytest.approx(0.665e9, rel=0.01)
    assert modules["language"].num_parameters == pytest.approx(11.5e9, rel=0.01)
    assert len(plan.graph.modules["language"].options.pattern) == 20
    whole = make_plan(VLM, [f"modules.language.options.pattern={PUBLISHED_PATTERN}"])
    assert whole.graph.descriptions["language"].num_parameters == pytest.approx(31.58e9, rel=1e-3)


def test_the_large_recipe_fills_its_sequences_with_as_many_positions_of_each_source():
    (largest, smallest) = make_plan(VLM).preview
    assert largest.total == smallest.total == 8192
    assert largest.encoders == {"vision": 4096}
