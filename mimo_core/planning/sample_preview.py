"""What the samples that a dataset's plugin shows say of a recipe: encoders that none of them feeds,
and texts that spell a token."""

from __future__ import annotations

from collections.abc import Sequence

from mimo_core.contract import Sample, Text
from mimo_core.errors import RecipeError
from mimo_core.planning.model_graph import Graph
from mimo_core.planning.sequence_budget import PositionCounts
from mimo_core.plugins import Host


def shown_samples(graph: Graph, host: Host) -> Sequence[Sample]:
    """The samples that the dataset's plugin shows; none where it has no hook ``preview``.

    Raises:
        PluginError: the plugin's hook failed.
    """
    if not host.implements("preview_samples", graph.data.plugin):
        return ()
    samples: Sequence[Sample] = host.call_hook(
        "preview_samples", graph.data.plugin, data=graph.data
    )
    return samples


def data_notes(graph: Graph, host: Host) -> tuple[str, ...]:
    """What the dataset's plugin says of its data, such as fields of a file that nothing reads.

    Raises:
        PluginError: the plugin's hook failed.
    """
    if not host.implements("preview_notes", graph.data.plugin):
        return ()
    return tuple(host.call_hook("preview_notes", graph.data.plugin, data=graph.data))


def check_fed(graph: Graph, samples: Sequence[PositionCounts], notes: Sequence[str]) -> None:
    """Every encoder gets something from at least one of the samples that are shown.

    Args:
        graph: Of the recipe.
        samples: Positions of the samples; none where the plugin shows none.
        notes: What the dataset's plugin says of its data.

    Raises:
        RecipeError: an encoder gets nothing.
    """
    if not samples:
        return
    for name in graph.encoders:
        if any(counts.encoders[name] for counts in samples):
            continue
        raise RecipeError(
            "\n".join(
                [
                    f"encoder {name!r} reads media of kind {graph.descriptions[name].modality!r}, "
                    f"but none of the {len(samples)} samples that plugin {graph.data.plugin!r} "
                    "shows has one, so it would train on nothing; correct the options of the data, "
                    f"or leave modules.{name} out",
                    *notes,
                ]
            ),
            ("data",),
            code="data.encoder-not-fed",
            encoder=name,
            samples=len(samples),
        )


def spelling_notes(graph: Graph, samples: Sequence[Sample]) -> tuple[str, ...]:
    """Texts that spell a special token of the tokenizer or a placeholder: they become the ids of
    their characters, a line for each such token."""
    tokenizer = graph.tokenizer
    marks = {
        symbol: id_
        for symbol, id_ in tokenizer.vocabulary.marks.items()
        if id_ not in tokenizer.encode(symbol)
    }
    symbols = {**marks, **tokenizer.vocabulary.added, **tokenizer.ids}
    found: dict[str, list[str]] = {}
    for sample in samples:
        texts = [part.text for part in sample.content if isinstance(part, Text)]
        for symbol, id_ in symbols.items():
            spelled = [text for text in texts if symbol in text]
            if spelled and not any(id_ in tokenizer.encode(text) for text in spelled):
                found.setdefault(symbol, []).append(sample.key)
    return tuple(
        f"{len(keys)} of {len(samples)} samples that the plan looked at spell {symbol!r} in their "
        f"text, {keys[0]} is the first: text makes no special token, so it becomes "
        f"{len(tokenizer.encode(symbol))} ids instead of its own, {symbols[symbol]}"
        for symbol, keys in found.items()
    )
