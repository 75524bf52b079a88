"""What the plugins answered for a graph, as text by place: comparable across ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import attrs

from mimo_core.contract import ModuleConfig
from mimo_core.planning.model_graph import Graph
from mimo_core.planning.sequence_budget import PositionCounts


def answers_of(graph: Graph, preview: Sequence[PositionCounts] = ()) -> dict[str, str]:
    """Every answer that the graph is made of, by module, plugin, hook and field.

    Functions and other objects without a value are compared by their type only.

    Args:
        graph: Of the recipe.
        preview: Positions of the samples that the dataset's plugin shows.
    """
    found: dict[str, str] = {}
    for name, module in graph.modules.items():
        where = f"{titled(module)}, hook"
        found |= _fields(f"{where} 'options_class'", module.options)
        for wrapper, options in module.wrappers.items():
            found |= _fields(
                f"module {name!r} (plugin {wrapper!r}, a wrapper), hook 'options_class'", options
            )
        found |= _fields(f"{where} 'describe_module'", graph.descriptions[name])
        found[f"{where} 'rng_prefix'"] = as_text(graph.rng_prefixes[name])
        if not module.is_language:
            found |= _fields(f"{where} 'module_edges'", graph.edge_of(name))
    data = f"data (plugin {graph.data.plugin!r}), hook"
    found |= _fields(f"{data} 'options_class'", graph.data.options)
    for wrapper, options in graph.data.wrappers.items():
        found |= _fields(f"data (plugin {wrapper!r}, a wrapper), hook 'options_class'", options)
    for counts in preview:
        of = f"sample {counts.sample}"
        found[f"{data} 'preview_samples', text of {of}"] = (
            f"{counts.text} positions, {counts.learned} learned"
        )
        for encoder, positions in counts.encoders.items():
            where = f"{titled(graph.modules[encoder])}, hook 'describe_module', positions"
            found[f"{where} of {of}"] = str(positions)
    return found


def titled(module: ModuleConfig) -> str:
    """How messages name a module and its plugin, with those that wrap it."""
    names = [f"plugin {module.plugin!r}", *(f"wrapped by {name!r}" for name in module.wrappers)]
    return f"module {module.name!r} ({', '.join(names)})"


def as_text(value: object) -> str:
    """A value that is the same text in every process, whatever its hashes and addresses are."""
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return repr(value)
    if isinstance(value, Mapping):
        items = (f"{as_text(key)}: {as_text(one)}" for key, one in value.items())
        return f"{{{', '.join(items)}}}"
    if isinstance(value, AbstractSet):
        return f"{{{', '.join(sorted(map(as_text, value)))}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_text, value))}]"
    if attrs.has(type(value)):
        fields = _fields("", value).items()
        return f"{type(value).__name__}({', '.join(f'{name}={text}' for name, text in fields)})"
    text = str(value)
    # The default repr() names the address.
    plain = " at 0x" not in text and not callable(value)
    return text if plain else getattr(value, "__qualname__", type(value).__qualname__)


def _fields(where: str, value: Any) -> dict[str, str]:
    """Of an attrs instance, one entry for each field."""
    if value is None or not attrs.has(type(value)):
        return {where: as_text(value)}
    before = f"{where}, " if where else ""
    return {
        f"{before}{field.name}": as_text(getattr(value, field.name))
        for field in attrs.fields(type(value))
    }
