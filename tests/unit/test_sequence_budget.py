"""Positions by source: what a dataset's plugin shows, and what would not fit."""

from __future__ import annotations

import attrs
import pytest

from mimo_core import MediaItem, Sample, Text, hookimpl
from mimo_core.data.sequence_builder import SequenceBuilder
from mimo_core.errors import PluginError, RecipeError
from mimo_core.planning.plan import Plan, make_plan
from mimo_core.planning.sequence_budget import PositionCounts, count_positions
from mimo_core.recipe import load_text

from ..helpers.fake_plugins import RECIPE, host, pairs

TWO_EYES = RECIPE.replace("  language:\n", "  second: {plugin: eye}\n  language:\n")
PICTURE = MediaItem(modality="image", shape=(8, 8), load=lambda generator: None)


def sample(*parts: Text | MediaItem, key: str = "pairs/0") -> Sample:
    return Sample(key=key, content=parts)


def plan_of(*samples: Sample, text: str = RECIPE, length: int = 64) -> Plan:
    @hookimpl
    def preview_samples(data):
        return samples

    loaded = load_text(text, "recipe.yaml", [f"train.sequence_length={length}"])
    return make_plan(loaded.recipe, host=host(pairs=pairs(preview_samples=preview_samples)))


ASKED = sample(PICTURE, Text(text="what?"), PICTURE, Text(text="a cat", is_target=True))


def test_positions_are_counted_by_source():
    assert plan_of(ASKED).preview == (
        PositionCounts(sample="pairs/0", encoders={"vision": 8}, text=10, learned=6, kept=6),
    )
    (counts,) = plan_of(ASKED, text=TWO_EYES).preview
    assert (counts.encoders, counts.total) == ({"vision": 8, "second": 8}, 26)


@pytest.mark.parametrize("begin", [(), (7, 8)], ids=["no begin", "begin"])
@pytest.mark.parametrize(
    "told",
    [
        ASKED,
        sample(Text(text="né", is_target=True)),
        sample(Text(text="x", is_target=True), PICTURE),
        sample(PICTURE, Text(text="", is_target=True)),
        sample(Text(text="no loss")),
    ],
)
def test_the_plan_counts_what_the_data_path_builds(told, begin):
    plan = plan_of(ASKED)
    tokenizer = plan.graph.tokenizer
    vocabulary = attrs.evolve(tokenizer.vocabulary, begin=begin)
    graph = attrs.evolve(plan.graph, tokenizer=attrs.evolve(tokenizer, vocabulary=vocabulary))
    counts = count_positions(graph, told)
    builder = SequenceBuilder(graph=graph, length=64, broken="skip")
    sequences = builder.build([told], [True])
    pad = tokenizer.pad
    assert counts.total == int((sequences.labels[0] != pad).sum())
    assert counts.learned == int(sequences.loss_mask.sum())
    assert counts.encoders["vision"] == int((sequences.input_ids == placeholder(plan)).sum())


def placeholder(plan: Plan) -> int:
    return plan.graph.tokenizer.placeholder_id("<vision>")


def test_a_sample_may_fill_the_sequence_but_no_more():
    full = sample(PICTURE, Text(text="x" * 60, is_target=True), key="pairs/long")
    assert plan_of(full, length=64).preview[0].total == 64
    with pytest.raises(RecipeError) as caught:
        plan_of(ASKED, full, length=62)
    assert "train.sequence_length: sample pairs/long takes 64 positions (vision 4, text 60)" in str(
        caught.value
    )


def test_a_medium_that_nobody_reads_is_found_before_a_rank_starts():
    with pytest.raises(RecipeError, match=r"data: sample pairs/0 has media of kind 'sound'"):
        plan_of(sample(MediaItem(modality="sound", shape=(9,), load=lambda generator: None)))


def test_a_plugin_that_shows_nothing_or_wrong_things():
    assert make_plan(load_text(RECIPE, "recipe.yaml").recipe, host=host()).preview == ()
    assert plan_of().preview == ()
    with pytest.raises(
        PluginError, match=r"hook 'preview_samples', gave .* not a sequence of Sample"
    ):
        plan_of("pairs/0")


@pytest.mark.parametrize("answer", [4, [4, 4, 4], [4.0, 4.0], ["4", "4"], "44", [True, 4], [-1, 4]])
def test_positions_that_are_no_count_for_each_are_told_with_what_is_expected(answer):
    graph = plan_of().graph
    eye = attrs.evolve(graph.descriptions["vision"], count_positions=lambda media: answer)
    graph = attrs.evolve(graph, descriptions=graph.descriptions | {"vision": eye})
    with pytest.raises(PluginError) as caught:
        count_positions(graph, ASKED)
    assert caught.value.code == "plugin.wrong-answer"
    said = caught.value.text
    asked = "but describe_module().count_positions of module"
    assert f"sample pairs/0 has 2 media of kind 'image', {asked}" in said
    assert f"'vision' (plugin 'eye') gave {answer!r} ({type(answer).__name__}); expected" in said
    assert said.endswith("in their order: positions=lambda media: [256 for _ in media]")
