"""What holds of any batch: placeholders, rows and what the encoders eat are counted alike."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import attrs
import numpy as np
from hypothesis import event, given
from hypothesis import strategies as st
from mimo_plugin_radio import plugin as radio
from mimo_plugin_radio.options import Options, options_of

from mimo_core import (
    LANGUAGE,
    MediaItem,
    ModuleConfig,
    ModuleDescription,
    ParameterSpec,
    Sample,
    Text,
    TokenBatch,
    hookimpl,
)
from mimo_core.data.microbatch_dataset import Batch, MicrobatchDataset, Role
from mimo_core.data.sampler import SequentialSampler
from mimo_core.data.sequence_builder import SequenceBuilder
from mimo_core.errors import SampleError
from mimo_core.planning.model_graph import Graph, build_graph
from mimo_core.planning.sequence_budget import media_positions
from mimo_core.recipe import load_text

from ..helpers.fake_plugins import RECIPE, eye, host, words
from ..helpers.hypothesis_settings import examples

MODULES = RECIPE.replace("  language:\n", "  sound: {plugin: ear}\n  language:\n")
MODULES = MODULES.replace("plugin: eye", "plugin: radio").replace(
    "patch_size: 14", "{hidden_size: 8, layers: 1, heads: 1}"
)
MICROBATCH = 12
DP = st.sampled_from([1, 2, 3, 4, 6])
"""Each divides the microbatch."""


@hookimpl
def describe_module(module: ModuleConfig) -> ModuleDescription:
    """An encoder whose media take as many positions as they are long, none included."""
    return ModuleDescription(
        hidden_size=8,
        num_layers=1,
        num_attention_heads=1,
        parameters=(ParameterSpec(num_parameters=1),),
        modality="sound",
        count_positions=lambda media: [medium.shape[0] for medium in media],
    )


@hookimpl
def provide_batch(module: ModuleConfig, samples: Any, context: Any) -> Mapping[str, Any]:
    return {"sequences": context.build_tokens(samples)}


HOST = host(
    radio=radio,
    ear=eye(options_class=None, describe_module=describe_module),
    words=words(provide_batch=provide_batch),
)
GRAPH = build_graph(load_text(MODULES, "recipe.yaml"), HOST)


@st.composite
def options(draw: st.DrawFn) -> Options:
    """Of radio, small."""
    shuffle, tokens, keep = draw(
        st.sampled_from([(True, 0, False), (True, 2, False), (False, 2, False), (False, 2, True)])
    )
    given_options: dict[str, Any] = {
        "patch_size": draw(st.sampled_from([2, 3])),
        "pixel_shuffle": shuffle,
        "class_tokens": tokens,
        "keep_class_tokens": keep,
        "max_image_size": 24,
    }
    if draw(st.booleans()):
        given_options |= {"resolution": "fixed", "image_size": draw(st.sampled_from([12, 24]))}
    else:
        least = draw(st.integers(1, 6))
        given_options |= {
            "resolution": "dynamic",
            "min_positions": least,
            "max_positions": draw(st.integers(2 * least + tokens, 24)),
            "sample_positions": draw(st.none() | st.integers(least, 60)),
        }
    return Options(hidden_size=8, layers=1, heads=1, **given_options)


def medium(kind: str, shape: tuple[int, ...]) -> MediaItem:
    return MediaItem(
        modality=kind, shape=shape, load=lambda generator: np.zeros((*shape, 3), np.uint8)
    )


SIDES = st.integers(1, 40)
PICTURES = st.builds(lambda h, w: medium("image", (h, w)), SIDES, SIDES)
SOUNDS = st.builds(lambda length: medium("sound", (length,)), st.integers(0, 5))
TEXTS = st.builds(
    Text,
    text=st.text(max_size=12) | st.sampled_from(["<vision>", "<sound><vision>"]),
    is_target=st.booleans(),
)


def samples() -> st.SearchStrategy[list[Sample]]:
    parts = st.lists(TEXTS | PICTURES | SOUNDS, max_size=5)
    return st.lists(parts, min_size=1, max_size=MICROBATCH).map(
        lambda drawn: [Sample(key=f"s/{n}", content=tuple(parts)) for n, parts in enumerate(drawn)]
    )


@attrs.frozen(kw_only=True)
class Run:
    """One microbatch of a run; samples that are missing are filled up, as in an evaluation."""

    graph: Graph
    samples: list[Sample]
    builder: SequenceBuilder

    def batches(self, name: str) -> list[Batch]:
        """The first microbatch of each data-parallel rank of a module."""
        module = self.graph.modules[name]
        return [
            MicrobatchDataset(
                dataset=self.samples,
                source="the test",
                order=SequentialSampler(len(self.samples)),
                roles=[
                    Role(
                        module=module,
                        dp_rank=rank,
                        first_stage=True,
                        inputs=name != "sound",
                        rows=self.graph.encoders if module.is_language else (name,),
                    )
                ],
                microbatch=MICROBATCH,
                training=False,
                seed=1,
                builder=self.builder,
                provide=lambda module, samples, context: HOST.call_hook(
                    "provide_batch",
                    module.plugin,
                    module=module,
                    samples=samples,
                    context=context,
                ),
            )[0]
            for rank in range(module.grid.dp)
        ]

    def id_of(self, encoder: str) -> int:
        return self.graph.tokenizer.placeholder_id(f"<{encoder}>")


@st.composite
def runs(draw: st.DrawFn) -> Run:
    modules = {
        name: attrs.evolve(
            module,
            grid=attrs.evolve(module.grid, dp=draw(DP), tp=draw(st.sampled_from([1, 2]))),
            options=draw(options()) if name == "vision" else module.options,
            packing=name == LANGUAGE and draw(st.booleans()),
        )
        for name, module in GRAPH.modules.items()
    }
    described = GRAPH.descriptions | {"vision": radio.describe_module(modules["vision"])}
    graph = attrs.evolve(GRAPH, modules=modules, descriptions=described)
    drawn = draw(samples())
    # Of all lengths, those at which the samples, or their media, just fit or just do not.
    found = [lengths(graph, sample) or (0, 0) for sample in drawn]
    near = max(draw(st.sampled_from([*zip(*found, strict=True)]))) + draw(st.integers(-1, 1))
    length = draw(st.sampled_from([512, max(1, near)]))
    cut = draw(st.booleans())
    builder = SequenceBuilder(graph=graph, length=length, cut=cut, broken="skip")
    return Run(graph=graph, samples=drawn, builder=builder)


@examples(200)
@given(run=runs())
def test_placeholders_rows_and_pictures_are_counted_alike(run: Run) -> None:
    try:
        told = {name: run.batches(name) for name in run.graph.modules}
    except SampleError as error:
        event("refused")
        assert re.match(rf"sample {refused(run)}\b", str(error))
        return
    assert refused(run) is None
    rows = {
        name: list(chain.from_iterable(batch.rows[name] for batch in told[name]))
        for name in run.graph.encoders
    }
    for batch in told[LANGUAGE]:
        check_sequences(run, batch)
    for name in run.graph.encoders:
        at_language = chain.from_iterable(batch.rows[name] for batch in told[LANGUAGE])
        assert list(at_language) == rows[name]
    for batch in told["vision"]:
        assert rows_of(batch.inputs["vision"], options_of(run.graph.modules["vision"])) == sum(
            batch.rows["vision"]
        )


def refused(run: Run) -> str | None:
    """The first sample whose pictures do not fit their budget, or else that is too long."""
    told = {sample.key: lengths(run.graph, sample) for sample in run.samples}
    if over := [key for key, found in told.items() if found is None]:
        assert options_of(run.graph.modules["vision"]).sample_positions is not None
        return over[0]
    least = {key: found[0 if run.builder.cut else 1] for key, found in told.items() if found}
    return next((key for key, most in least.items() if most > run.builder.length), None)


def lengths(graph: Graph, sample: Sample) -> tuple[int, int] | None:
    """Positions up to the end of its last medium, and all; ``None`` if media break a budget."""
    try:
        rows = {
            graph.descriptions[name].modality: iter(media_positions(graph, name, sample))
            for name in graph.encoders
        }
    except SampleError:
        return None
    total = needed = 0
    for part in sample.content:
        if isinstance(part, Text):
            total += len(part.text.encode())
        else:
            total += next(rows[part.modality])
            needed = total
    return needed, total


def check_sequences(run: Run, batch: Batch) -> None:
    """One data-parallel rank's sequences, sample by sample."""
    tokenizer = run.graph.tokenizer
    built: TokenBatch = batch.inputs[LANGUAGE]["sequences"]
    names = ("input_ids", "labels", "loss_mask", "position_ids")
    arrays = [getattr(built, name) for name in names]
    if built.lengths is None:
        parts = list(zip(*arrays, strict=True))
    else:
        ends = np.cumsum(built.lengths)
        assert ends[-1] == built.input_ids.shape[1]
        assert ends[-1] % run.graph.modules[LANGUAGE].grid.tp == 0
        parts = list(zip(*(np.split(array[0], ends[:-1]) for array in arrays), strict=True))
    placeholders = [run.id_of(name) for name in run.graph.encoders]
    for number, (ids, labels, mask, positions) in enumerate(parts):
        padding = number >= len(batch.rows["vision"])
        for name, symbol in zip(run.graph.encoders, placeholders, strict=True):
            assert (ids == symbol).sum() == (0 if padding else batch.rows[name][number])
        assert labels[:-1].tolist() == ids[1:].tolist()
        assert positions.tolist() == list(range(len(ids)))
        assert set(mask.tolist()) <= {0.0, 1.0}
        assert not mask[np.isin(labels, [*placeholders, tokenizer.pad])].any()


def rows_of(inputs: dict[str, Any] | None, options: Options) -> int:
    """What the tower makes of its batch, by the shapes that go in."""
    if inputs is None:
        return 0
    patch, joined = options.patch_size, 4 if options.pixel_shuffle else 1
    if "images" in inputs:
        pictures, _, height, width = inputs["images"].shape
        sizes: Sequence[tuple[int, int]] = [(height, width)] * pictures
    else:
        sizes = inputs["sizes"]
    patches = [(height // patch) * (width // patch) for height, width in sizes]
    assert all(side % options.unit == 0 for size in sizes for side in size)
    if "patches" in inputs:
        assert inputs["patches"].shape == (sum(patches), 3 * patch**2)
    return sum(count // joined + options.kept_tokens for count in patches)
