"""From samples to a rank's microbatches: the order, the sequences, the slices, the feed."""

from __future__ import annotations

from itertools import islice
from typing import Any

import attrs
import numpy as np
import pytest
import torch

from mimo_core import LANGUAGE, MediaItem, ModuleDescription, ParameterSpec, Sample, Text, hookimpl
from mimo_core.data.iterator import MicrobatchIterator
from mimo_core.data.microbatch_dataset import Batch, MicrobatchDataset, Role
from mimo_core.data.sampler import SequentialSampler, ShuffledSampler
from mimo_core.data.sequence_builder import SequenceBuilder
from mimo_core.errors import PluginError
from mimo_core.planning.model_graph import Graph, build_graph
from mimo_core.recipe import load_text
from mimo_core.testing import raises_code

from ..helpers.fake_plugins import RECIPE, eye, host, words

LENGTH = 24
PAD, END, SOUND, VISION = 256, 257, 258, 259
"""Ids of the graph below; edges, and so placeholders, are sorted by module."""

TWO_KINDS = RECIPE.replace("  language:\n", "  sound: {plugin: ear}\n  language:\n")


@hookimpl
def pixels(module, samples, context):
    """An encoder's batch: everything decoded, summed up."""
    return {
        "decoded": [array.tolist() for array in context.decode_media(samples)],
        "keys": [sample.key for sample in samples],
    }


@hookimpl
def text(module, samples, context):
    """The language model's batch."""
    built = context.build_tokens(samples)
    return {"keys": [sample.key for sample in samples], "mask": built.loss_mask.sum(1).tolist()}


def reads(kind: str):
    """``describe`` of an encoder whose media take as many positions as they are high."""

    @hookimpl
    def describe_module(module):
        return ModuleDescription(
            hidden_size=8,
            num_layers=1,
            num_attention_heads=1,
            parameters=(ParameterSpec(num_parameters=1),),
            modality=kind,
            count_positions=lambda media: [medium.shape[0] for medium in media],
        )

    return describe_module


HOST = host(
    eye=eye(describe_module=reads("image"), provide_batch=pixels),
    ear=eye(describe_module=reads("sound"), provide_batch=pixels),
    words=words(provide_batch=text),
)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return build_graph(load_text(TWO_KINDS, "recipe.yaml"), HOST)


@pytest.fixture(scope="module")
def builder(graph) -> SequenceBuilder:
    return SequenceBuilder(graph=graph, length=LENGTH, broken="skip")


def image(height: int = 2, value: int = 0, kind: str = "image") -> MediaItem:
    """Its data are its value, with noise where a generator is given."""

    def load(generator):
        noise = 0.0 if generator is None else generator.random()
        return np.full(1, value + noise)

    return MediaItem(modality=kind, shape=(height, 4), load=load)


def sample(*parts: Text | MediaItem, key: str = "pairs/0") -> Sample:
    return Sample(key=key, content=parts)


@attrs.frozen
class Pairs:
    """Each a picture and its caption; sample ``i`` has ``i % 3`` rows and holds ``i``.

    Samples are made once, as a dataset in memory may do it.
    """

    samples: list[Sample]

    @classmethod
    def of(cls, count: int) -> Pairs:
        return cls(
            [
                sample(image(i % 3, 10 * i), Text(text="ab", is_target=True), key=f"pairs/{i}")
                for i in range(count)
            ]
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


# The order
def test_every_epoch_shows_every_sample_once_in_an_order_of_its_own():
    order = ShuffledSampler(10, seed=1)
    epochs = [[order[position] for position in range(k * 10, k * 10 + 10)] for k in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert list(range(10)) not in epochs


def test_a_resumed_run_goes_on_in_the_same_order_mid_epoch():
    whole = ShuffledSampler(10, seed=1)
    consumed = [whole[position] for position in range(37)]
    resumed = ShuffledSampler(10, seed=1)
    assert [resumed[position] for position in range(23, 37)] == consumed[23:]
    # Also after looking far back and ahead.
    assert [whole[position] for position in (95, 3, 51, 3)] == [
        ShuffledSampler(10, seed=1)[position] for position in (95, 3, 51, 3)
    ]
    assert [ShuffledSampler(10, seed=2)[position] for position in range(37)] != consumed


def test_a_dataset_without_samples_is_refused():
    with raises_code("data.no-samples", split="train"):
        ShuffledSampler(0, seed=1)


def test_an_evaluation_takes_each_sample_once_then_fills_up():
    order = SequentialSampler(3)
    assert [order[position] for position in range(5)] == [0, 1, 2, None, None]


# Sequences
def test_placeholders_stand_for_rows_and_only_learned_text_has_loss(builder):
    built = builder.build(
        [
            sample(
                Text(text="Q"),
                image(3),
                Text(text="a", is_target=True),
                image(1, kind="sound"),
                Text(text="yz", is_target=True),
            )
        ],
        [True],
    )
    ids = [ord("Q"), *[VISION] * 3, ord("a"), SOUND, ord("y"), ord("z"), END]
    assert built.input_ids.tolist() == [ids + [PAD] * (LENGTH - len(ids))]
    labels = ids[1:]
    assert built.labels.tolist() == [labels + [PAD] * (LENGTH - len(labels))]
    learned = [0, 0, 0, 1, 0, 1, 1, 1]
    assert built.loss_mask.tolist() == [learned + [0] * (LENGTH - len(learned))]
    assert built.position_ids.tolist() == [list(range(LENGTH))]
    assert (built.input_ids.dtype, built.labels.dtype) == (np.int64, np.int64)
    assert built.loss_mask.dtype == np.float32


def test_a_plugin_may_write_into_its_sequences(builder):
    """Each sample's positions are its own, and torch takes the arrays without a warning."""
    two = [sample(Text(text=text, is_target=True)) for text in ("ab", "cd")]
    built = builder.build(two, [True, True])
    built.position_ids[0] = 0
    assert built.position_ids[1].tolist() == list(range(LENGTH))
    arrays = [each for each in attrs.asdict(built, recurse=False).values() if each is not None]
    assert all(each.flags.writeable for each in arrays)


def test_packed_samples_that_ranks_share_are_each_padded_to_two_chunks_a_rank():
    sizes = ["modules.language.grid={tp: 2, cp: 2}", "modules.language.packing=true"]
    graph = build_graph(load_text(TWO_KINDS, "recipe.yaml", sizes), HOST)
    built = SequenceBuilder(graph=graph, length=LENGTH).build(
        [
            sample(Text(text="abc", is_target=True)),
            sample(image(4), Text(text="xyz", is_target=True)),
        ],
        [True, True],
    )
    first, second = [*b"abc", END], [*[VISION] * 4, *b"xyz", END]
    # Then to what tp must divide on every rank.
    assert built.lengths.tolist() == [4, 8, 4]
    assert built.input_ids.tolist() == [[*first, *second, *[PAD] * 4]]
    assert built.labels.tolist() == [[*first[1:], PAD, *second[1:], PAD, *[PAD] * 4]]
    learned = [1, 1, 1, 0, *[0, 0, 0, 1, 1, 1, 1, 0], *[0] * 4]
    assert built.loss_mask.tolist() == [learned]
    assert built.position_ids.tolist() == [[*range(4), *range(8), *range(4)]]


@pytest.mark.parametrize(
    "parts",
    [
        (Text(text="a", is_target=True), image()),
        (image(), Text(text="a")),
        (Text(text="a", is_target=True), Text(text="b")),
    ],
)
def test_the_end_is_learned_only_after_learned_text(builder, parts):
    built = builder.build([sample(*parts)], [True])
    assert built.loss_mask[built.labels >= PAD].sum() == 0
    learned = builder.build([sample(Text(text="x"), Text(text="a", is_target=True))], [True])
    assert learned.loss_mask[learned.labels == END].tolist() == [1]


def test_nothing_is_learned_of_a_filler(builder):
    one = sample(image(), Text(text="a", is_target=True))
    built = builder.build([one, one], [True, False])
    assert built.loss_mask.sum(1).tolist() == [2, 0]


def test_text_that_spells_a_placeholder_makes_none(builder):
    spelled = sample(Text(text="<vision><sound>", is_target=True))
    built = builder.build([spelled], [True])
    assert builder.rows("vision", spelled) == 0
    assert not np.isin(built.input_ids, [VISION, SOUND]).any()
    assert built.input_ids[0, :8].tolist() == list(b"<vision>")


def test_rows_and_placeholders_agree_for_every_encoder(builder):
    one = sample(image(3), image(2, kind="sound"), image(0), image(5))
    ids = builder.build([one], [True]).input_ids
    for encoder, symbol in {"vision": VISION, "sound": SOUND}.items():
        assert builder.rows(encoder, one) == (ids == symbol).sum()


def test_a_sample_that_just_fits_fits_and_one_more_is_named(builder):
    fits = sample(Text(text="x" * (LENGTH - 2), is_target=True), Text(text="yz", is_target=True))
    built = builder.build([fits], [True])
    # The end is the label of the last position.
    assert (built.input_ids[0, -1], built.labels[0, -1]) == (ord("z"), END)
    assert built.loss_mask[0, -1] == 1
    long = sample(image(20), Text(text="x" * 5), key="pairs/train/7")
    with pytest.raises(ValueError, match=r"pairs/train/7 takes 25 positions, .*length = 24; raise"):
        builder.build([fits, long], [True, True])


def test_a_sample_that_is_too_long_loses_the_end_of_its_text_where_that_is_wanted(builder):
    whole = attrs.evolve(builder, length=64)
    long = sample(image(2), Text(text="abcdef", is_target=True))
    short = attrs.evolve(builder, length=4, cut=True)
    full, cut = whole.build([long], [True]), short.build([long], [True])
    for name in ("input_ids", "labels", "loss_mask"):
        assert getattr(cut, name).tolist() == getattr(full, name)[:, :4].tolist()
    # Also where the last placeholder would be left as a label only.
    for length in (0, 1):
        with pytest.raises(ValueError, match="its media alone are too long"):
            attrs.evolve(builder, length=length, cut=True).build([long], [True])


def test_media_that_no_encoder_reads_is_refused(builder):
    with pytest.raises(ValueError, match=r"pairs/3 has media of kind 'smell'.*'vision': 'image'"):
        builder.build([sample(image(kind="smell"), key="pairs/3")], [True])


# Slices
def slices(
    graph: Graph,
    module: str,
    *,
    dataset: Any = None,
    dp: int = 1,
    dp_rank: int = 0,
    microbatch: int = 4,
    order: Any = None,
    training: bool = True,
    seed: int = 5,
    first_stage: bool = True,
    inputs: bool = True,
) -> MicrobatchDataset:
    node = graph.modules[module]
    node = attrs.evolve(node, grid=attrs.evolve(node.grid, dp=dp))
    data = Pairs.of(10) if dataset is None else dataset
    rows = graph.encoders if module == LANGUAGE else (module,)
    return MicrobatchDataset(
        source="plugin 'pairs'",
        dataset=data,
        order=order or ShuffledSampler(len(data), seed=1),
        roles=[
            Role(module=node, dp_rank=dp_rank, first_stage=first_stage, inputs=inputs, rows=rows)
        ],
        microbatch=microbatch,
        training=training,
        seed=seed,
        builder=SequenceBuilder(graph=graph, length=LENGTH),
        provide=lambda module, samples, context: HOST.call_hook(
            "provide_batch", module.plugin, module=module, samples=samples, context=context
        ),
    )


@pytest.mark.parametrize(("encoder_dp", "language_dp"), [(1, 2), (2, 1), (4, 2), (2, 2)])
def test_encoder_and_language_ranks_hold_the_same_samples_in_the_same_order(
    graph, encoder_dp, language_dp
):
    """Joined over a module's replicas, microbatch for microbatch."""

    def joined(module: str, dp: int, number: int) -> tuple[list[str], list[int]]:
        parts = [slices(graph, module, dp=dp, dp_rank=rank)[number] for rank in range(dp)]
        keys = [key for part in parts for key in part.inputs[module]["keys"]]
        return keys, [count for part in parts for count in part.rows["vision"]]

    order = ShuffledSampler(10, seed=1)
    for number in range(6):
        keys, rows = joined("vision", encoder_dp, number)
        assert (keys, rows) == joined(LANGUAGE, language_dp, number)
        indices = [order[number * 4 + place] for place in range(4)]
        assert keys == [f"pairs/{index}" for index in indices]
        assert rows == [index % 3 for index in indices]


def test_only_encoders_decode(graph):
    class Forbidden:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Sample:
            def load(generator):
                raise AssertionError("decoded")

            return sample(
                MediaItem(modality="image", shape=(2, 2), load=load), Text(text="a", is_target=True)
            )

    batch = slices(graph, LANGUAGE, dataset=Forbidden())[0]
    assert (batch.decoded, batch.rows["vision"], batch.rows["sound"]) == (0, (2,) * 4, (0,) * 4)
    # Another kind's media are not decoded either.
    assert slices(graph, "sound", dataset=Forbidden())[0].decoded == 0
    middle_stage = slices(graph, LANGUAGE, dataset=Forbidden(), inputs=False)[0]
    assert (middle_stage.inputs, middle_stage.decoded) == ({}, 0)
    with pytest.raises(PluginError, match="media are decoded on the first pipeline stage alone"):
        slices(graph, "vision", dataset=Forbidden(), first_stage=False)[0]
    assert slices(graph, "vision")[0].decoded == 4


def test_a_picture_that_cannot_be_decoded_names_its_sample(graph):
    def load(generator):
        raise OSError("truncated file")

    broken = [sample(MediaItem(modality="image", shape=(2, 2), load=load), key="photos.jsonl:3")]
    with pytest.raises(ValueError, match=r"cannot decode image of photos\.jsonl:3: truncated file"):
        slices(graph, "vision", dataset=broken, microbatch=1)[0]


def decoded(graph: Graph, count: int = 5, **given: Any) -> list[float]:
    """What is decoded of the first microbatches, flat."""
    part = slices(graph, "vision", **given)
    return [
        value for number in range(count) for (value,) in part[number].inputs["vision"]["decoded"]
    ]


class Faulty:
    """Sample 1 is none, sample 2 fails."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        if index == 2:
            raise ZeroDivisionError("bad")
        return {} if index == 1 else sample(Text(text="a", is_target=True))


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (1, r"the dataset of plugin 'pairs', sample 1, gave a dict, not a Sample"),
        (2, r"the dataset of plugin 'pairs', sample 2, failed: ZeroDivisionError: bad \(at .*py:"),
    ],
)
def test_a_dataset_that_breaks_its_contract_is_named_with_the_sample(graph, number, said):
    with pytest.raises(PluginError, match=said):
        slices(graph, LANGUAGE, dataset=Faulty(), order=SequentialSampler(4), microbatch=1)[number]


def test_augmentation_is_a_function_of_seed_and_position(graph):
    whole = decoded(graph)
    assert decoded(graph) == whole
    # Whoever holds the sample, and from whatever microbatch the run goes on.
    assert slices(graph, "vision", dp=2, dp_rank=1)[3].inputs["vision"]["decoded"] == [
        [value] for value in whole[14:16]
    ]
    assert decoded(graph, seed=6) != whole
    # A sample that comes again in the next epoch is augmented anew.
    noise = [value % 1 for value in whole]
    assert len(set(noise)) == len(noise) == 20


def test_an_epoch_that_ends_in_a_microbatch_augments_its_sample_twice(graph):
    """With a dataset that gives the same object for the same index."""
    (first, second) = decoded(graph, 1, dataset=Pairs.of(1), microbatch=2)
    assert first != second
    assert decoded(graph, 2, dataset=Pairs.of(1), microbatch=1) == [first, second]


def test_evaluation_is_not_augmented(graph):
    values = decoded(graph, 2, training=False, order=SequentialSampler(10))
    assert values == [10.0 * index for index in range(8)]


def test_fillers_of_an_evaluation_carry_no_loss(graph):
    """Also beside the sample that they repeat, in a dataset that keeps its samples.

    The first sample has no rows: the first of its three ids is nobody's label.
    """
    part = slices(graph, LANGUAGE, dataset=Pairs.of(3), order=SequentialSampler(3), training=False)
    assert part[0].inputs[LANGUAGE]["mask"] == [2.0, 3.0, 3.0, 0.0]
    assert part[1].inputs[LANGUAGE]["mask"] == [0.0] * 4


def test_samples_of_another_batch_are_refused(graph):
    kept = []

    def provide(module, samples, context):
        kept.append(samples[0])
        return {"decoded": context.decode_media([kept[0]])}

    part = slices(graph, "vision")
    part._provide = provide
    part[0]
    with raises_code("plugin.wrong-context-call"):
        part[1]


# The feed
def feed(
    graph: Graph, *, first: int = 0, last: int = 6, workers: int = 0, **given: Any
) -> MicrobatchIterator:
    part = slices(graph, "vision", **given)
    return MicrobatchIterator(part, first=first, last=last, workers=workers, seed=3)


def test_the_rows_peeked_at_are_of_the_batch_that_comes_next(graph):
    looking, straight = feed(graph), feed(graph)
    for _ in range(8):
        rows = [looking.peek_row_counts() for _ in range(2)]
        batch = next(looking)
        assert rows == [batch.rows] * 2
        assert batch == next(straight)
    # What was only looked at is not counted as decoded.
    looking.peek_row_counts()
    assert looking.decoded == straight.decoded == 32


def test_what_cannot_be_looked_at_early_fails_when_it_is_due(graph):
    """A step is over, and saved, before the next one's samples are found to be broken."""
    part = feed(graph)
    due = [next(part), part.peek()]

    whole = part._loader.dataset._provide

    def broken(_module, _samples, _context):
        # Once: what comes after it must not be taken for it.
        part._loader.dataset._provide = whole
        raise OSError("truncated file")

    part._loader.dataset._provide = broken
    assert next(part) == due[1] and part.peek() is None
    for _ in range(2):
        with pytest.raises(OSError, match="truncated file"):
            part.peek_row_counts()
    with pytest.raises(OSError, match="truncated file"):
        next(part)


def test_a_feed_begins_anew_after_its_last_microbatch(graph):
    batches = list(islice(feed(graph, last=3), 7))
    assert batches[3:6] == batches[:3]
    assert batches[6] == batches[0]
    assert batches[0] != batches[1]


def test_a_resumed_feed_goes_on_where_it_was(graph):
    assert list(islice(feed(graph, first=4), 2)) == list(islice(feed(graph), 6))[4:]


def test_workers_change_no_batch_and_no_random_number_of_the_model(graph):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    alone = list(islice(feed(graph), 8))
    assert torch.equal(torch.get_rng_state(), before)
    assert list(islice(feed(graph, workers=2), 8)) == alone
    assert torch.equal(torch.get_rng_state(), before)
    assert next(feed(graph, seed=6)) != alone[0]


def test_a_batch_is_pinned_whole(monkeypatch):
    """What a GPU copies while the host goes on; the loader's thread asks a batch for it."""
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda one: pinned.append(one) or one + 0)
    batch = Batch(
        inputs={"vision": {"patches": torch.ones(2), "sizes": ((2, 2),)}, "depth": None},
        rows={"vision": (1,)},
        decoded=1,
        work=(2.0,),
    )
    found = batch.pin_memory()
    assert [one.tolist() for one in pinned] == [[1, 1]]
    assert found.inputs["vision"]["patches"] is not batch.inputs["vision"]["patches"]
    assert found.inputs["vision"]["patches"].tolist() == [1, 1]
    assert found.inputs["vision"]["sizes"] == ((2, 2),)
    assert found.inputs["depth"] is None
    assert (found.rows, found.decoded, found.work) == (batch.rows, 1, (2.0,))


def test_what_shares_memory_is_pinned_too(monkeypatch):
    """torch refuses to pin a tensor whose elements share places, such as a row of positions that
    was expanded to every sample."""

    def pin(one):
        assert one.is_contiguous()
        return one

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    inputs = {"language": {"position_ids": torch.arange(3).expand(2, 3)}}
    found = Batch(inputs=inputs, rows={}, decoded=0).pin_memory()
    assert found.inputs["language"]["position_ids"].tolist() == [[0, 1, 2]] * 2


def test_a_picture_that_a_worker_cannot_decode_names_its_sample(graph):
    def load(generator):
        raise OSError("truncated file")

    broken = [sample(MediaItem(modality="image", shape=(2, 2), load=load), key="photos.jsonl:3")]
    with pytest.raises(ValueError, match=r"cannot decode image of photos\.jsonl:3: truncated file"):
        next(feed(graph, dataset=broken, microbatch=1, workers=1))
