"""The only shape a graph may have: every encoder feeds the language model, once."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from mimo_core.contract import LANGUAGE, Edge, ModuleConfig
from mimo_core.errors import PluginError, RecipeError, suggestion
from mimo_core.plugins import Host

REASON = "megatron-core 0.19's MimoModel gives encoders no other module's output"


def edges(modules: Mapping[str, ModuleConfig], host: Host) -> tuple[Edge, ...]:
    """The edges that the modules want, sorted.

    Raises:
        PluginError: An edge that does not leave its own module, or goes to none.
        RecipeError: The edges make no star, or two of them share a placeholder.
    """
    found: list[Edge] = []
    for module in modules.values():
        if module.is_language and not host.implements("module_edges", module.plugin):
            continue
        wanted = host.call_hook("module_edges", module.plugin, module=module, modules=modules)
        _check(module, wanted, modules, host)
        found += wanted
    _check_placeholders(found, modules)
    return tuple(sorted(found, key=attrs.astuple))


def _check(
    module: ModuleConfig, wanted: list[Edge], modules: Mapping[str, ModuleConfig], host: Host
) -> None:
    said = (
        f"{host.get_plugin(module.plugin).title}, hook 'module_edges' for module {module.name!r},"
    )
    for edge in wanted:
        if edge.source != module.name:
            raise PluginError(
                f"{said} gave an edge from {edge.source!r}; a module gives only edges that leave "
                "it: source=module.name",
                code="plugin.wrong-edge",
                plugin=module.plugin,
                edge=attrs.astuple(edge),
            )
        if edge.target not in modules:
            raise PluginError(
                f"{said} gave an edge to {edge.target!r}, which the recipe does not have."
                f"{suggestion(edge.target, modules)} Modules: {', '.join(modules)}",
                code="plugin.wrong-edge",
                plugin=module.plugin,
                edge=attrs.astuple(edge),
            )
        if not isinstance(edge.placeholder, str) or not edge.placeholder:
            raise PluginError(
                f"{said} gave the placeholder {edge.placeholder!r}; it is a text such as '<image>'",
                code="plugin.wrong-edge",
                plugin=module.plugin,
                edge=attrs.astuple(edge),
            )
    targets = [edge.target for edge in wanted]
    if module.is_language:
        if targets:
            raise _no_star(module, f"feeds {', '.join(targets)}, but must feed no module: {REASON}")
    elif not targets:
        raise _no_star(
            module,
            f"feeds nothing, as a language model does. A recipe has one language model, named "
            f"{LANGUAGE!r}; every other module is an encoder and must feed it: {REASON}",
        )
    elif targets != [LANGUAGE]:
        raise _no_star(
            module, f"feeds {', '.join(targets)}, but must feed {LANGUAGE!r}, once: {REASON}"
        )


def _no_star(module: ModuleConfig, does: str) -> RecipeError:
    return RecipeError(
        f"the graph is no star: module {module.name!r} (plugin {module.plugin!r}) {does}",
        ("modules", module.name),
        code="recipe.no-star",
        module=module.name,
    )


def _check_placeholders(found: list[Edge], modules: Mapping[str, ModuleConfig]) -> None:
    owners: dict[str, str] = {}
    for edge in found:
        other = owners.setdefault(edge.placeholder, edge.source)
        if other != edge.source:
            raise RecipeError(
                f"modules {other!r} (plugin {modules[other].plugin!r}) and {edge.source!r} "
                f"(plugin {modules[edge.source].plugin!r}) use the same placeholder "
                f"{edge.placeholder!r}, so the rows of one could not be told from the other's; "
                "the plugin must make it from module.name or an option",
                ("modules", edge.source),
                code="recipe.same-placeholder",
                modules=(other, edge.source),
                placeholder=edge.placeholder,
            )
