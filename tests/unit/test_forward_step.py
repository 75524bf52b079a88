"""The loss, and what the language model is said to have answered."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mimo_core.errors import PluginError
from mimo_core.train.forward_step import check_logits

from ..distributed.rank_functions.cpu_platform import answer_sheet, launch, logits
from ..helpers.problems import refused


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    """Four ranks: tp 2, dp 2; each holds half of the vocabulary."""
    return [rank["step"] for rank in launch()]


@pytest.mark.parametrize("case", ["random", "bf16"])
def test_argmax_over_a_split_vocabulary_is_that_of_the_whole(ranks, case):
    whole = logits()[case].argmax(-1)
    assert (whole < 4).any() and (whole >= 4).any()
    assert [rank[case] for rank in ranks] == [whole.tolist()] * 4


def test_argmax_without_tensor_parallelism(ranks):
    assert ranks[0]["alone"] == logits()["random"].argmax(-1).tolist()


def test_of_equal_logits_the_lower_id_wins_on_every_rank(ranks):
    assert [rank["tied"] for rank in ranks] == [[[3, 5, 0]]] * 4


def test_the_loss_is_the_sum_over_learned_tokens_and_their_number(ranks):
    assert ranks[0]["loss of some"] == {
        "total": 6.0,
        "count": 3,
        "count type": "torch.int32",
        "reported": {"lm loss": [6.0, 3.0], "exact": [1.0, 1.0]},
        "gradient": [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]],
    }


def test_a_batch_without_learned_tokens_has_no_loss_and_no_gradient(ranks):
    told = ranks[0]["loss of none"]
    assert (told["total"], told["count"]) == (0.0, 0)
    assert told["reported"]["lm loss"] == [0.0, 0.0]
    assert told["gradient"] == [[0.0] * 3] * 2


def test_logits_of_other_positions_are_refused():
    check_logits(torch.zeros(2, 3, 8), (2, 3), "module 'language' (plugin 'mine')")
    for shape in ((3, 2, 8), (2, 4, 8), (1, 3, 8)):
        facts = {"module": "module 'language' (plugin 'mine')", "hook": "build_submodule"}
        with refused("plugin.wrong-answer", PluginError, shape=shape[:2], **facts):
            check_logits(torch.zeros(shape), (2, 3), "module 'language' (plugin 'mine')")


@pytest.mark.parametrize("case", ["evaluation", "packed evaluation"])
def test_a_sample_is_right_when_all_its_learned_tokens_are_and_fillers_do_not_count(ranks, case):
    labels, mask = answer_sheet()
    predicted = logits()["random"].argmax(-1)
    for rank in ranks:
        told = rank[case]
        assert told["reported"] == {"lm loss": [5.0, 5.0], "caption_accuracy": [1.0, 2.0]}
        samples = zip(predicted.tolist(), labels.tolist(), (mask > 0).tolist(), strict=True)
        assert told["answers"] == [list(sample) for sample in samples]


@pytest.mark.parametrize("case", ["shared", "packed and shared"])
def test_a_sample_that_ranks_share_is_judged_whole(ranks, case):
    """The wrong token of the second sample is on one of the two context-parallel ranks alone."""
    labels, mask = answer_sheet()
    predicted = logits()["random"].argmax(-1)
    losses = [rank[case]["reported"]["lm loss"] for rank in ranks]
    assert losses == [[3.0, 3.0], [3.0, 3.0], [2.0, 2.0], [2.0, 2.0]]
    samples = zip(predicted.tolist(), labels.tolist(), (mask > 0).tolist(), strict=True)
    filled = [[p + [0] * 3, of + [0] * 3, learned + [False] * 3] for p, of, learned in samples]
    for rank in ranks:
        assert rank[case]["reported"]["caption_accuracy"] == [1.0, 2.0]
        assert rank[case]["answers"] == filled
