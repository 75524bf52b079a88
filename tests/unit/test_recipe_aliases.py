"""Former and foreign keys: refused, with the key to use instead."""

from __future__ import annotations

import attrs
import pytest

from mimo_core.recipe.aliases import FOREIGN, FORMER
from mimo_core.recipe.converter import structure

from ..helpers.fake_plugins import RECIPE
from ..helpers.problems import facts
from .test_megatron_validation import is_key
from .test_recipe import refused


def test_every_alias_names_a_key_of_a_recipe_and_is_none_itself() -> None:
    targets = {*FORMER.values(), *FOREIGN.values()} - {"--run-dir"}
    assert {target for target in targets if not is_key(target)} == set()
    assert {key for key in FORMER if is_key(key)} == set()
    top = {key for key in FOREIGN if is_key(key)}
    assert top == set(), "these are keys at the top of a recipe"


@pytest.mark.parametrize("key", sorted(FORMER))
def test_a_former_key_is_refused_with_the_new_one(key: str) -> None:
    place = key.replace("NAME", "vision")
    (problem,) = facts(refused(RECIPE, f"{place}=1"))
    assert problem[:2] == ("recipe.unknown-key", f"command line: {place}=1")
    assert problem[2]["nearest"] == FORMER[key]


@pytest.mark.parametrize(
    ("key", "target"),
    [
        ("lr", "train.learning_rate"),
        ("train.lr", "train.learning_rate"),
        ("output_dir", "--run-dir"),
        ("train.epochs", "train.iterations"),
        ("gradient_accumulation_steps", "train.global_batch_size"),
        ("training.steps", "train"),
        ("modules.vision.tensor_model_parallel_size", "modules.NAME.grid.tp"),
        ("checkpoint.save-steps", "checkpoint.save_interval"),
    ],
)
def test_a_foreign_key_is_refused_with_ours(key: str, target: str) -> None:
    (problem,) = facts(refused(RECIPE, f"{key}=1"))
    assert (problem[0], problem[2]["nearest"]) == ("recipe.unknown-key", target)


def test_an_option_of_a_plugin_is_no_key_of_a_recipe() -> None:
    @attrs.frozen
    class Options:
        size: int = 1

    _, (problem,) = structure(Options, {"lr": 1}, ("modules", "vision", "options"))
    assert (problem.code, problem.values["nearest"]) == ("recipe.unknown-key", None)
