"""The model graph: what the recipe and the plugins make of each other, before any rank exists."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from mimo_core.contract import LANGUAGE, DatasetConfig, Edge, ModuleConfig, ModuleDescription
from mimo_core.errors import PluginError, Problem, RecipeError
from mimo_core.planning import graph_shape
from mimo_core.plugins import Host
from mimo_core.plugins.result_validation import DUE_POSITIONS, shown
from mimo_core.recipe import LoadedRecipe, Recipe, structure_options
from mimo_core.recipe.megatron_schema import shared_fields
from mimo_core.tokenizer import Tokenizer, make_tokenizer

_EVERY_MODULE = ("describe_module", "rng_prefix", "build_submodule", "provide_batch")


@attrs.frozen(kw_only=True)
class Graph:
    """Modules and edges, with what the plugins say of them: the same on every rank."""

    modules: dict[str, ModuleConfig]
    """In the order of the recipe."""
    edges: tuple[Edge, ...]
    """Sorted; placeholders have their ids in this order."""
    descriptions: dict[str, ModuleDescription]
    rng_prefixes: dict[str, str]
    data: DatasetConfig
    tokenizer: Tokenizer

    @property
    def encoders(self) -> tuple[str, ...]:
        """Every module but the language model, in the order of the recipe."""
        return tuple(name for name in self.modules if name != LANGUAGE)

    @property
    def frozen(self) -> tuple[str, ...]:
        """Modules of which some weights do not learn."""
        return tuple(
            name
            for name, module in self.modules.items()
            if any(
                weights.frozen or weights.component in module.freeze
                for weights in self.descriptions[name].parameters
            )
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What the plugins want to be known, behind the names of their modules, and the notes of
        the tokenizer."""
        plugins = (
            f"{name}: {note}" for name in self.modules for note in self.descriptions[name].notes
        )
        return (*plugins, *self.tokenizer.notes)

    def edge_of(self, encoder: str) -> Edge:
        """The one edge that leaves an encoder."""
        return next(edge for edge in self.edges if edge.source == encoder)


def build_graph(loaded: LoadedRecipe, host: Host) -> Graph:
    """Asks the plugins of the recipe and checks that their answers make a graph.

    Order: options, edges, tokenizer (its size is the vocabulary), the language model's
    description (its width is what projectors put out), the encoders' descriptions, rng prefixes.
    Edges are therefore asked before ``language_width`` and ``vocabulary_size`` are known.

    Raises:
        PluginError: A plugin is missing or broken, or gives what breaks the contract.
        RecipeError: Options do not fit, or the graph is none that can be trained.
    """
    recipe = loaded.recipe
    _check_plugins(loaded, host)
    options = _all_options(loaded, host)
    modules = {
        name: ModuleConfig(
            name=name,
            plugin=module.plugin,
            grid=module.grid,
            train=recipe.train,
            options=options["modules", name],
            freeze=module.freeze,
            precision=module.precision or recipe.train.precision,
            packing=module.packing,
            lr_mult=module.lr_mult,
            wd_mult=module.wd_mult,
            megatron=shared_fields(recipe.megatron) | module.megatron,
            wrappers=_wrappers(options, ("modules", name), module.wrappers),
        )
        for name, module in recipe.modules.items()
    }
    edges = graph_shape.edges(modules, host)
    tokenizer = make_tokenizer(recipe.tokenizer.path, [edge.placeholder for edge in edges])
    language = attrs.evolve(modules[LANGUAGE], vocabulary_size=tokenizer.size)
    description: ModuleDescription = host.call_hook(
        "describe_module", language.plugin, module=language
    )
    modules[LANGUAGE] = language
    modules = {
        name: attrs.evolve(module, language_width=description.hidden_size)
        for name, module in modules.items()
    }
    return Graph(
        modules=modules,
        edges=edges,
        descriptions={
            name: description if module.is_language else _describe_encoder(module, host)
            for name, module in modules.items()
        },
        rng_prefixes=_rng_prefixes(modules, host),
        data=DatasetConfig(
            plugin=recipe.data.plugin,
            options=options["data",],
            seed=recipe.train.seed,
            wrappers=_wrappers(options, ("data",), recipe.data.wrappers),
        ),
        tokenizer=tokenizer,
    )


def _check_plugins(loaded: LoadedRecipe, host: Host) -> None:
    """Every plugin that the recipe names is usable, and has the hooks of its role."""
    uses = {
        ("modules", name): (module.plugin, _EVERY_MODULE)
        if name == LANGUAGE
        else (module.plugin, (*_EVERY_MODULE, "module_edges"))
        for name, module in loaded.recipe.modules.items()
    } | {("data",): (loaded.recipe.data.plugin, ("build_dataset",))}
    wrong: list[Problem] = []
    cause: PluginError | None = None

    def note(problem: Problem, path: tuple[str, ...]) -> None:
        wrong.append(loaded.places.placed(attrs.evolve(problem, path=path)))

    for path, (plugin, hooks) in uses.items():
        where = (*path, "plugin")
        try:
            record = host.get_plugin(plugin)
        except PluginError as error:
            note(error.problems[0], where)
            cause = cause or error
            continue
        missing = [hook for hook in hooks if not host.implements(hook, plugin)]
        if missing:
            able = [
                name
                for name in host.usable_plugins
                if all(host.implements(hook, name) for hook in hooks)
            ]
            message = (
                f"{record.title} does not implement {', '.join(missing)}, which {_role(path)}. "
                f"Plugins that have what it takes: {', '.join(able) or 'none'}"
            )
            values = {"plugin": plugin, "hooks": tuple(missing)}
            note(Problem(message, "plugin.missing-hook", values=values), where)
    for place, wrappers in _wrapped(loaded.recipe).items():
        for name in wrappers:
            try:
                problem = _wraps_nothing(place[0].removesuffix("s"), name, host)
            except PluginError as error:
                problem, cause = error.problems[0], cause or error
            if problem:
                note(problem, (*place, "wrappers", name))
    if wrong:
        raise PluginError.of(wrong) from cause


def _wraps_nothing(subject: str, plugin: str, host: Host) -> Problem | None:
    """What is wrong with a plugin that is named as a wrapper of a ``module`` or of the ``data``."""
    if host.wrapped_hooks(subject, plugin):
        return None
    kind = "a module" if subject == "module" else "the data"
    able = [name for name in host.usable_plugins if host.wrapped_hooks(subject, name)]
    return Problem(
        f"{host.get_plugin(plugin).title} wraps no hook of {kind}. "
        f"Plugins that do: {', '.join(able) or 'none'}",
        "plugin.wraps-nothing",
        values={"plugin": plugin},
    )


def _wrapped(recipe: Recipe) -> dict[tuple[str, ...], dict[str, dict[str, Any]]]:
    """The wrappers of every module and of the data by the path of what they wrap."""
    found: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {
        ("modules", name): module.wrappers for name, module in recipe.modules.items()
    }
    return found | {("data",): recipe.data.wrappers}


def _wrappers(
    options: dict[tuple[str, ...], Any], path: tuple[str, ...], names: Iterable[str]
) -> dict[str, Any]:
    return {name: options[*path, "wrappers", name] for name in names}


def _role(path: tuple[str, ...]) -> str:
    if path == ("data",):
        return "a dataset needs"
    if path == ("modules", LANGUAGE):
        return "the language model needs"
    return f"an encoder needs (the one language model is named {LANGUAGE!r})"


def _all_options(loaded: LoadedRecipe, host: Host) -> dict[tuple[str, ...], Any]:
    """The options of every use of a plugin by the path of that use; all mistakes in one error."""
    recipe = loaded.recipe
    uses: dict[tuple[str, ...], tuple[str, dict[str, Any]]] = {
        ("modules", name): (module.plugin, module.options)
        for name, module in recipe.modules.items()
    }
    uses["data",] = (recipe.data.plugin, recipe.data.options)
    for path, wrappers in _wrapped(recipe).items():
        uses |= {(*path, "wrappers", name): (name, values) for name, values in wrappers.items()}
    found: dict[tuple[str, ...], Any] = {}
    wrong: list[Problem] = []
    for path, (plugin, values) in uses.items():
        where = path if len(path) > 2 else (*path, "options")
        if host.implements("options_class", plugin):
            cls = host.call_hook("options_class", plugin)
            try:
                found[path] = structure_options(loaded, where, cls, values)
            except RecipeError as error:
                wrong += error.problems
        elif values:
            message = f"plugin {plugin!r} takes no options; leave it out"
            problem = Problem(message, "plugin.no-options", where, {"plugin": plugin})
            wrong.append(loaded.places.placed(problem))
        else:
            found[path] = None
    if wrong:
        raise RecipeError.of(wrong)
    return found


def _describe_encoder(module: ModuleConfig, host: Host) -> ModuleDescription:
    description: ModuleDescription = host.call_hook("describe_module", module.plugin, module=module)
    for field in ("modality", "count_positions"):
        if getattr(description, field) is None:
            raise PluginError(
                f"{host.get_plugin(module.plugin).title}, hook 'describe_module' for module "
                f"{module.name!r}, gave a ModuleDescription without {field!r}, which an encoder "
                "needs",
                code="plugin.wrong-answer",
                plugin=module.plugin,
                hook="describe_module",
                field=field,
            )
    if not callable(description.count_positions):
        raise PluginError(
            f"{host.get_plugin(module.plugin).title}, hook 'describe_module' for module "
            f"{module.name!r}, gave a ModuleDescription whose count_positions is "
            f"{shown(description.count_positions)}; expected a function that gives {DUE_POSITIONS}",
            code="plugin.wrong-answer",
            plugin=module.plugin,
            hook="describe_module",
            field="count_positions",
        )
    return description


def _rng_prefixes(modules: dict[str, ModuleConfig], host: Host) -> dict[str, str]:
    owners: dict[str, ModuleConfig] = {}
    for module in modules.values():
        prefix = host.call_hook("rng_prefix", module.plugin, module=module)
        if not prefix:
            raise PluginError(
                f"{host.get_plugin(module.plugin).title}, hook 'rng_prefix' for module "
                f"{module.name!r}, gave an empty text; a good prefix is '{module.name}.'",
                code="plugin.wrong-answer",
                plugin=module.plugin,
                hook="rng_prefix",
            )
        if prefix in owners:
            other = owners[prefix]
            raise PluginError(
                f"modules {other.name!r} (plugin {other.plugin!r}) and {module.name!r} (plugin "
                f"{module.plugin!r}) have the same rng prefix {prefix!r}; hook 'rng_prefix' must "
                f"make it from module.name, such as '{module.name}.'",
                code="plugin.same-rng-prefix",
                modules=(other.name, module.name),
                prefix=prefix,
            )
        owners[prefix] = module
    return {module.name: prefix for prefix, module in owners.items()}
