"""The host: knows the installed plugins, and puts every question to the one it belongs to."""

from __future__ import annotations

import hashlib
import os
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import attrs
import pluggy

from mimo_core.contract import DatasetConfig, ModuleConfig
from mimo_core.errors import MimoError, PluginError, SampleError, code_of, suggestion, text_of
from mimo_core.plugins import discovery, result_validation
from mimo_core.plugins.loading import load
from mimo_core.plugins.record import DiscoveredPlugin, PluginRecord
from mimo_core.plugins.registration import (
    Registered,
    new_manager,
    register,
    specifications,
    wrappable,
)


class Host:
    """Plugins by name. Make one with :meth:`discover`, or :meth:`from_plugins` in a test."""

    def __init__(self, candidates: Iterable[DiscoveredPlugin]) -> None:
        """Loads and registers the candidates in their order.

        One that fails is recorded as broken; using it raises.
        """
        self._manager = new_manager()
        self._hooks = specifications(self._manager)
        self._registered: dict[str, Registered] = {}
        self._causes: dict[str, BaseException] = {}
        self._callers: dict[tuple[str, str, tuple[str, ...]], pluggy.HookCaller] = {}
        self._records = {candidate.name: self._load(candidate) for candidate in candidates}

    @classmethod
    def discover(
        cls, disabled: Sequence[str] = (), environ: Mapping[str, str] | None = None
    ) -> Host:
        """The installed plugins: entry points of group ``mimo.plugins``, sorted by name.

        Args:
            disabled: Names that must not be imported (``--no-plugin``).
            environ: Where ``MIMO_PLUGINS`` and ``MIMO_DISABLE_PLUGIN_AUTOLOAD`` are read;
                ``os.environ`` by default.

        Raises:
            PluginError: Two distributions give one name, or a name that is switched on or off
                is not installed.
            MimoError: ``MIMO_DISABLE_PLUGIN_AUTOLOAD`` says neither yes nor no.
        """
        return cls(discovery.candidates(disabled, os.environ if environ is None else environ))

    @classmethod
    def from_plugins(
        cls, plugins: Mapping[str, object], versions: Mapping[str, str] | None = None
    ) -> Host:
        """A host of plugin objects that are not installed; versions default to ``"0"``."""

        def candidate(name: str) -> DiscoveredPlugin:
            return DiscoveredPlugin(
                name=name,
                distribution=f"{discovery.DISTRIBUTION}{name}",
                version=(versions or {}).get(name, "0"),
                load=lambda: plugins[name],
            )

        return cls(candidate(name) for name in sorted(plugins))

    @property
    def records(self) -> tuple[PluginRecord, ...]:
        """Every installed plugin, sorted by name."""
        return tuple(self._records.values())

    @property
    def usable_plugins(self) -> tuple[str, ...]:
        """Names of the plugins that can be asked."""
        return tuple(self._registered)

    def get_plugin(self, plugin: str) -> PluginRecord:
        """The record of a plugin that can be asked.

        Raises:
            PluginError: It is not installed, disabled or broken.
        """
        record = self._records.get(plugin)
        if record is None:
            raise PluginError(
                f"there is no plugin {plugin!r}.{suggestion(plugin, self._records)} "
                f"Installed: {', '.join(self._records) or 'none'}. "
                f"To install it: pip install {discovery.DISTRIBUTION}{plugin}",
                code="plugin.not-installed",
                plugin=plugin,
            )
        if record.state == "disabled":
            message = f"{record.title} is disabled: {record.reason}"
            raise PluginError(message, code="plugin.disabled", plugin=plugin)
        if record.state == "broken":
            message = f"{record.title} cannot be used: {record.reason}"
            cause = self._causes[plugin]
            code = code_of(cause, "plugin.import-failed")
            raise PluginError(message, code=code, plugin=plugin) from cause
        return record

    def implements(self, hook: str, plugin: str) -> bool:
        """Whether the plugin itself answers the hook (wrapping it is no answer).

        Raises:
            PluginError: The plugin cannot be used.
        """
        assert hook in self._hooks, hook
        self.get_plugin(plugin)
        return hook in self._registered[plugin].implementations

    def wrapped_hooks(self, subject: str, plugin: str) -> tuple[str, ...]:
        """The hooks of a ``module``, or of the ``data``, that the plugin wraps.

        Raises:
            PluginError: The plugin cannot be used.
        """
        self.get_plugin(plugin)
        wrapped = self._registered[plugin].wrappers
        return tuple(sorted(hook for hook in wrapped if wrappable(self._hooks[hook]) == subject))

    def call_hook(self, hook: str, plugin: str, /, **arguments: Any) -> Any:
        """The plugin's answer, with the wrappers that the ``module`` or ``data`` names around it.

        Raises:
            PluginError: The plugin or a wrapper cannot be used, the plugin does not implement the
                hook, one of them raised (then its exception is the cause), or something of a wrong
                type came out.
        """
        subject = arguments.get("module", arguments.get("data"))
        wrappers = (
            tuple(subject.wrappers) if isinstance(subject, ModuleConfig | DatasetConfig) else ()
        )
        asked = (hook, plugin, wrappers)
        caller = self._callers.get(asked) or self._caller(*asked)
        try:
            answer = caller(**arguments)
        except SampleError:
            raise
        except (Exception, SystemExit) as error:
            self._blame(asked, arguments, error)
        if answer is None and hook in result_validation.MAY_BE_NONE:
            return None
        due = result_validation.expected(hook, arguments, answer)
        if due is not None:
            gave = "nothing (None)" if answer is None else result_validation.shown(answer)
            raise PluginError(
                f"{self._call(hook, plugin, arguments)} gave {gave}, not {_a(due)}",
                code="plugin.wrong-answer",
                plugin=plugin,
                hook=hook,
            )
        return answer

    def named(self, hook: str, module: ModuleConfig) -> str:
        """A hook of a module with its plugin and those that wrap it, as messages name it."""
        around = "".join(f" wrapped by {name!r}" for name in module.wrappers)
        return f"{self._call(hook, module.plugin, {'module': module}).rstrip(',')}{around}"

    def versions(self) -> dict[str, str]:
        """Versions of the usable plugins by name."""
        return {name: self._records[name].version for name in self._registered}

    def digest(self, names: Sequence[str] | None = None) -> str:
        """A hash of name, distribution and version of these plugins (default: all usable ones).

        Ranks whose digests differ would not build the same graph.
        """
        records = [
            self.get_plugin(name) for name in (self.usable_plugins if names is None else set(names))
        ]
        lines = sorted("\0".join((r.name, r.distribution, r.version)) for r in records)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def _load(self, candidate: DiscoveredPlugin) -> PluginRecord:
        def record(**fields: Any) -> PluginRecord:
            return PluginRecord(
                name=candidate.name,
                distribution=candidate.distribution,
                version=candidate.version,
                **fields,
            )

        if candidate.disabled:
            return record(state="disabled", reason=candidate.disabled)
        try:
            loaded = load(candidate.load, candidate.check)
            registered = register(self._manager, candidate.name, loaded.plugin)
        except (Exception, SystemExit) as error:
            self._causes[candidate.name] = error
            kind = "" if isinstance(error, PluginError) else f"{type(error).__name__}: "
            return record(state="broken", reason=f"{kind}{text_of(error)}")
        self._registered[candidate.name] = registered
        wraps = (f"{hook} (wraps)" for hook in registered.wrappers)
        return record(
            state="usable",
            hooks=(*sorted(registered.implementations), *sorted(wraps)),
            warnings=(*loaded.warnings, *registered.warnings),
        )

    def _caller(self, hook: str, plugin: str, wrappers: tuple[str, ...]) -> pluggy.HookCaller:
        """Calls the plugin's own implementation with these wrappers around it; made once."""
        if not self.implements(hook, plugin):
            own = self._registered[plugin]
            hint = (
                f"; its function {hook!r} lacks the mark @mimo_core.hookimpl"
                if hook in own.unmarked
                else f"; it implements {', '.join(sorted(own.implementations)) or 'no hook'}"
            )
            raise PluginError(
                f"{self._records[plugin].title} does not implement hook {hook!r}{hint}",
                code="plugin.missing-hook",
                plugin=plugin,
                hooks=(hook,),
            )
        for name in wrappers:
            self.get_plugin(name)
        manager = new_manager()
        # Pluggy puts what is registered later around what was registered before.
        manager.register(self._registered[plugin].part)
        for name in wrappers:
            manager.register(self._registered[name].around)
        caller: pluggy.HookCaller = getattr(manager.hook, hook)
        self._callers[hook, plugin, wrappers] = caller
        return caller

    def _blame(
        self,
        asked: tuple[str, str, tuple[str, ...]],
        arguments: Mapping[str, Any],
        error: Exception | SystemExit,
    ) -> NoReturn:
        """Raises with the name of the plugin, asked or wrapping, in whose code it happened."""
        hook, plugin, wrappers = asked
        owners = {_code(self._registered[plugin].implementations[hook]): plugin} | {
            _code(self._registered[name].wrappers[hook]): name
            for name in wrappers
            if hook in self._registered[name].wrappers
        }
        frames = list(traceback.walk_tb(error.__traceback__))
        guilty = [frame.f_code for frame, _ in frames if frame.f_code in owners]
        culprit = owners[guilty[-1]] if guilty else plugin
        wrapping = f" (around plugin {plugin!r})" if culprit != plugin else ""
        if isinstance(error, MimoError):
            # Written for users: where in the code it was raised is nothing to them.
            raise PluginError.of(
                attrs.evolve(
                    problem, message=f"{self._records[culprit].title}{wrapping}: {problem.message}"
                )
                for problem in error.problems
            ) from error
        file = guilty[-1].co_filename if guilty else frames[-1][0].f_code.co_filename
        line = [line for frame, line in frames if frame.f_code.co_filename == file][-1]
        module = _module_name(arguments)
        about: dict[str, Any] = {"module": module} if module else {}
        raise PluginError(
            f"{self._call(hook, culprit, arguments)} failed{wrapping}: "
            f"{type(error).__name__}: {error} (at {file}:{line})",
            code="plugin.hook-failed",
            plugin=culprit,
            hook=hook,
            **about,
            file=file,
            line=line,
        ) from error

    def _call(self, hook: str, plugin: str, arguments: Mapping[str, Any]) -> str:
        module = _module_name(arguments)
        where = f" for module {module!r}" if module else ""
        return f"{self._records[plugin].title}, hook {hook!r}{where},"


def _module_name(arguments: Mapping[str, Any]) -> str | None:
    name: str | None = getattr(arguments.get("module"), "name", None)
    return name


def _code(function: Any) -> Any:
    return getattr(getattr(function, "__func__", function), "__code__", None)


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeAE' else 'a'} {noun}"
