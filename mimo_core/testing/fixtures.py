"""The plugin under test in a host of its own, in a recipe with partners beside it. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import yaml

from mimo_core.contract import LANGUAGE, ModuleConfig, ModuleDescription
from mimo_core.errors import PluginError, suggestion
from mimo_core.planning.model_graph import Graph, build_graph
from mimo_core.plugins import Host, discovery
from mimo_core.plugins.record import DiscoveredPlugin
from mimo_core.plugins.versions import check_contract
from mimo_core.recipe import load_text
from mimo_core.testing import stub_plugins
from mimo_core.testing.conformance_case import Kind, Subject
from mimo_core.testing.outcome import UndeclaredSupportError

ENCODER = "encoder"
"""Name of the encoder in the recipe of the bench."""
REQUIRED: Mapping[Kind, tuple[str, ...]] = {
    "encoder": (
        "describe_module",
        "module_edges",
        "rng_prefix",
        "build_submodule",
        "provide_batch",
    ),
    "language": ("describe_module", "rng_prefix", "build_submodule", "provide_batch"),
    "dataset": ("build_dataset",),
    "wrapper": (),
}


@attrs.define
class Bench:
    """One subject, with what is asked of its plugin more than once."""

    subject: Subject
    host: Host = attrs.field(init=False)
    _candidates: Mapping[str, DiscoveredPlugin] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._candidates = {one.name: one for one in _candidates(self.plugins)}
        self.host = Host(self._candidates.values())

    @property
    def plugins(self) -> list[Any]:
        """The plugin under test, and that of the module it wraps, as the subjects name them."""
        wrapped = self.subject.wraps
        return [self.subject.plugin, *([wrapped.plugin] if wrapped else [])]

    @property
    def name(self) -> str:
        """What recipes call the plugin under test."""
        return plugin_name(self.subject.plugin)

    def loaded(self) -> Any:
        """The object that holds the plugin's hooks."""
        return self._candidates[self.name].load()

    def plain_options(self) -> dict[str, Any]:
        """The subject's options as YAML has them."""
        return _plain(self.subject.options)

    @property
    def inner(self) -> Subject:
        """What is used as module or dataset: the subject, or what it wraps."""
        subject = self.subject
        if subject.kind != "wrapper":
            return subject
        if subject.wraps is None:
            raise UndeclaredSupportError(
                f"{type(subject).__name__}.wraps does not say what module to wrap"
            )
        return subject.wraps()

    @property
    def module_name(self) -> str:
        """Name of the module under test in the recipe."""
        return LANGUAGE if self.inner.kind == "language" else ENCODER

    def recipe(
        self,
        *,
        grid: Mapping[str, int] | None = None,
        precision: str = "fp32",
        freeze: tuple[str, ...] = (),
        packing: bool = False,
        seed: int = 1234,
    ) -> dict[str, Any]:
        """A recipe with the module or dataset under test; values as in YAML."""
        inner = self.inner
        width = {"hidden_size": inner.language_width}
        modules: dict[str, dict[str, Any]] = {
            ENCODER: {"plugin": stub_plugins.ENCODER_PARTNER, "options": width},
            LANGUAGE: {"plugin": stub_plugins.LANGUAGE_PARTNER, "options": width},
        }
        data: dict[str, Any] = {"plugin": stub_plugins.DATA_PARTNER}
        tested: dict[str, Any] = {
            "plugin": plugin_name(inner.plugin),
            "options": _plain(inner.options),
        }
        if self.subject is not inner and self.subject.kind == "wrapper":
            tested["wrappers"] = {self.name: _plain(self.subject.options)}
        if inner.kind == "dataset":
            data = tested
        else:
            more = {"grid": grid, "megatron": _plain(inner.megatron), "freeze": list(freeze)}
            tested |= {key: value for key, value in more.items() if value}
            modules[self.module_name] = tested | {"precision": precision, "packing": packing}
        return {
            "modules": modules,
            "data": data,
            "train": {
                "iterations": 1,
                "micro_batch_size": 3,
                "global_batch_size": 3,
                "sequence_length": inner.sequence_length,
                "learning_rate": 1e-3,
                "seed": seed,
            },
        }

    def graph(self, **recipe: Any) -> Graph:
        """What the host makes of the recipe.

        Raises:
            MimoError: options do not fit, or a plugin's answers break the contract.
        """
        text = yaml.safe_dump(self.recipe(**recipe), sort_keys=False)
        return build_graph(load_text(text, f"recipe of {type(self.subject).__name__}"), self.host)

    def module(self, **recipe: Any) -> tuple[ModuleConfig, ModuleDescription]:
        """The module under test, as hooks see it, and its description."""
        graph = self.graph(**recipe)
        return graph.modules[self.module_name], graph.descriptions[self.module_name]

    def declares(self, size: str) -> None:
        """Nothing, where the description lets this size of the grid exceed 1.

        Raises:
            UndeclaredSupportError: it does not.
        """
        _, description = self.module()
        if size not in description.supported_parallelism:
            told = ", ".join(sorted(description.supported_parallelism)) or "none"
            raise UndeclaredSupportError(
                f"{size}: not declared in describe_module().supported_parallelism ({told})"
            )


def host_of(plugins: Sequence[Any]) -> Host:
    """A host of these plugins (names, or objects that hold hooks) and the partners."""
    return Host(_candidates(plugins))


def kinds_of(host: Host, plugin: str) -> tuple[Kind, ...]:
    """What a plugin is used for, by its hooks, some of which it may lack: an encoder alone needs
    ``module_edges``.

    Raises:
        PluginError: the plugin cannot be used.
    """
    kinds: list[Kind] = []
    if any(host.implements(hook, plugin) for hook in REQUIRED["encoder"]):
        kinds.append("encoder" if host.implements("module_edges", plugin) else "language")
    if host.implements("build_dataset", plugin) or host.implements("preview_samples", plugin):
        kinds.append("dataset")
    return tuple(kinds) or ("wrapper",)


def plugin_name(plugin: Any) -> str:
    """What recipes call it."""
    if isinstance(plugin, str):
        return plugin
    name: str = getattr(plugin, "__name__", "unnamed")
    return name.rpartition(".")[2]


def _candidates(plugins: Sequence[Any]) -> Iterator[DiscoveredPlugin]:
    """The plugins that are tested and the partners, nothing else: others may be broken."""
    installed = {candidate.name: candidate for candidate in discovery.candidates((), {})}
    for plugin in plugins:
        if not isinstance(plugin, str):
            yield _object(plugin_name(plugin), plugin)
        elif plugin in installed:
            yield installed[plugin]
        else:
            raise PluginError(
                f"there is no plugin {plugin!r}.{suggestion(plugin, installed)} Installed: "
                f"{', '.join(installed) or 'none'}. To try one that you write: pip install -e .",
                code="plugin.not-installed",
                plugin=plugin,
                installed=tuple(installed),
            )
    for name, partner in stub_plugins.partners().items():
        yield _object(name, partner)


def _object(name: str, plugin: object) -> DiscoveredPlugin:
    return DiscoveredPlugin(
        name=name,
        distribution=f"mimo-plugin-{name}",
        version="0",
        load=lambda: plugin,
        check=check_contract,
    )


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """As YAML has it: tuples are lists there."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(inner) for key, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value

    return {key: plain(value) for key, value in options.items()}
