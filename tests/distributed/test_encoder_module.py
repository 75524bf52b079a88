"""The container of an encoder: the default projector, and nothing left out of checkpoints."""

from __future__ import annotations

from typing import Any

import pytest

from mimo_core.testing import run_ranks

from ..helpers.paths import RANK_FUNCTIONS


@pytest.fixture(scope="module")
def contained() -> list[dict[str, Any]]:
    return run_ranks(f"{RANK_FUNCTIONS / 'encoder_module.py'}:contain", ranks=2)


def test_the_default_projector_gives_whole_rows_on_every_rank(
    contained: list[dict[str, Any]],
) -> None:
    for rank in contained:
        assert rank["shape"] == [10, 8]
        assert rank["rows"] == contained[0]["rows"]
        assert rank["gradients"]
        assert not rank["view"], "the schedule frees what was sent, and refuses views"


def test_a_parameter_that_the_checkpoint_would_lose_is_an_error(
    contained: list[dict[str, Any]],
) -> None:
    assert contained[0]["saved"] >= contained[0]["parameters"] > 0
    assert "the checkpoint would not hold" in contained[0]["said"]
    assert "encoders.tower.linear.weight" in contained[0]["said"]


def test_what_cannot_pass_between_stages_is_an_error_before_it_is_sent(
    contained: list[dict[str, Any]],
) -> None:
    for rank in contained:
        assert rank["hidden"] == [2, 5, 6]
        assert "Tower returned a tensor of shape [5, 6] in torch.float32" in rank["flat"]
        assert "hidden states [S, B, H] in torch.float32" in rank["flat"]
        for said in rank["apart"]:
            assert "one pipeline stage has a batch and another has none" in said


def test_what_is_not_a_tensor_of_rows_is_refused_with_plugin_module_and_hook(
    contained: list[dict[str, Any]],
) -> None:
    given = {
        "tuple": "returned tuple of Tensor, NoneType",
        "list": "returned list of Tensor",
        "empty": "returned tuple of nothing",
        "dict": "returned dict",
        "None": "returned None",
        "number": "returned float",
        "1 dimension": "returned a tensor of shape [",
        "4 dimensions": "returned a tensor of shape [1, ",
        "integers": "in torch.int64",
    }
    due = {
        "tower": "rows [N, width] or [B, S, width]",
        "stage": "hidden states [S, B, H] in torch.float32",
        "projector": "rows [N, 8]",
    }
    for rank in contained:
        assert rank["right"] == [10, 8]
        assert set(rank["wrong"]) == {f"{part}: {name}" for part in due for name in given}
        for case, said in rank["wrong"].items():
            part, name = case.split(": ")
            word = "projector Projector" if part == "projector" else "tower Tower"
            assert said.startswith(
                "module 'vision' (plugin 'stranger'), hook 'build_submodule': the forward of the "
                f"{word} returned "
            ), (case, said)
            assert given[name] in said and f"expected {due[part]}" in said, (case, said)
            assert said.endswith(" [plugin.wrong-forward]"), (case, said)


def test_features_of_another_width_than_described_are_refused(
    contained: list[dict[str, Any]],
) -> None:
    for rank in contained:
        assert "returned a tensor of shape [2, 5, 6], expected rows" in rank["width"]
        assert "with width 7" in rank["width"]
        assert rank["width"].endswith(" [plugin.wrong-forward]")
