"""Registration, stricter than pluggy's: a plugin fits the hook specifications or stays out.

A plugin's own implementations and its wrappers are two pluggy plugins. So the wrappers that a
recipe names can stand around the implementation of the plugin that is asked, and whatever object an
entry point loads, what pluggy holds is hashable and distinct.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import attrs
import pluggy

from mimo_core.errors import PluginError, nearest, suggestion
from mimo_core.plugins import hookspecs
from mimo_core.plugins.versions import deprecated

Function = Callable[..., Any]
_REFUSED_KINDS: dict[Any, str] = {
    inspect.Parameter.VAR_POSITIONAL: "*",
    inspect.Parameter.VAR_KEYWORD: "**",
}


class _Part:
    """Functions under the names they have in the plugin; compared by identity."""


@attrs.frozen(kw_only=True)
class Registered:
    """A plugin that fits: its functions by hook, and what pluggy holds of it."""

    implementations: dict[str, Function]
    wrappers: dict[str, Function]
    part: object
    """The pluggy plugin of the implementations."""
    around: object
    """The pluggy plugin of the wrappers."""
    unmarked: frozenset[str]
    """Functions named like a hook that lack the ``hookimpl`` mark."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the plugin's authors should mend."""
        functions = [*self.implementations.items(), *self.wrappers.items()]
        taken = {
            hook: tuple(inspect.signature(function).parameters) for hook, function in functions
        }
        forgotten = [
            f"its function {name!r} is named as a hook and lacks the mark @mimo_core.hookimpl: it "
            "is never asked"
            for name in sorted(self.unmarked)
        ]
        return (*forgotten, *deprecated(taken))


def new_manager() -> pluggy.PluginManager:
    """A pluggy manager that knows the specifications and no plugin."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def specifications(manager: pluggy.PluginManager) -> dict[str, tuple[str, ...]]:
    """Argument names of every hook, by the hook's name."""
    return {
        name: caller.spec.argnames
        for name, caller in sorted(vars(manager.hook).items())
        if isinstance(caller, pluggy.HookCaller) and caller.spec is not None
    }


def register(manager: pluggy.PluginManager, name: str, plugin: object) -> Registered:
    """Checks every marked function of ``plugin``, then registers all of them.

    Raises:
        PluginError: a function does not fit its specification; nothing stays registered.
    """
    specs = specifications(manager)
    parts = {False: _Part(), True: _Part()}
    found: dict[bool, dict[str, Function]] = {False: {}, True: {}}
    unmarked = set()
    for attribute in dir(plugin):
        marks = manager.parse_hookimpl_opts(plugin, attribute)
        if marks is None:
            if attribute in specs and inspect.isroutine(getattr(plugin, attribute, None)):
                unmarked.add(attribute)
            continue
        function = getattr(plugin, attribute)
        hook = marks.get("specname") or attribute
        wraps = bool(marks.get("wrapper"))
        if marks.get("hookwrapper"):
            raise PluginError(
                f"{attribute}: hookwrapper=True is pluggy's old style; use "
                "@hookimpl(wrapper=True), whose yield gives the result itself",
                code="plugin.wrong-hook",
                hook=attribute,
            )
        _check(hook, function, specs, wraps=wraps)
        if wraps:
            _check_wrapper(hook, specs, marks)
        if hook in found[wraps]:
            raise PluginError(
                f"two functions of this plugin {'wrap' if wraps else 'answer'} hook {hook!r}: "
                f"{_defined(found[wraps][hook])} and {_defined(function)}; keep one",
                code="plugin.wrong-hook",
                hook=hook,
            )
        found[wraps][hook] = function
        setattr(parts[wraps], attribute, function)
    manager.register(parts[False], name)
    manager.register(parts[True], f"{name} (wrappers)")
    return Registered(
        implementations=found[False],
        wrappers=found[True],
        part=parts[False],
        around=parts[True],
        unmarked=frozenset(unmarked),
    )


FORMER_HOOKS = {
    "describe": "describe_module",
    "options": "options_class",
    "preview": "preview_samples",
    "flops": "estimate_flops",
    "weight_map": "param_mappings",
}
"""Hooks that have another name now, for the message of a plugin that implements one."""


def _check(
    hook: str, function: Function, specs: dict[str, tuple[str, ...]], *, wraps: bool
) -> None:
    if hook not in specs:
        near, hint = nearest(hook, specs), suggestion(hook, specs)
        if hook in FORMER_HOOKS:
            near = FORMER_HOOKS[hook]
            hint = f" It is {near!r} now."
        raise PluginError(
            f"there is no hook {hook!r}.{hint} Hooks: {', '.join(specs)}",
            code="plugin.unknown-hook",
            hook=hook,
            nearest=near,
        )
    allowed = specs[hook]
    signature = f"{hook}({', '.join(allowed)})"
    for parameter in inspect.signature(function).parameters.values():
        shown = _REFUSED_KINDS.get(parameter.kind, "") + parameter.name
        if parameter.kind in _REFUSED_KINDS:
            raise PluginError(
                f"hook {hook!r} takes {shown}, which would hide a wrong argument name; "
                f"name what it needs of {signature}",
                code="plugin.wrong-hook",
                hook=hook,
            )
        if parameter.name not in allowed:
            raise PluginError(
                f"hook {hook!r} takes an argument {shown!r} that its specification lacks."
                f"{suggestion(shown, allowed)} Name what it needs of {signature}",
                code="plugin.wrong-hook",
                hook=hook,
            )
        if parameter.default is not parameter.empty:
            raise PluginError(
                f"hook {hook!r} gives its argument {shown!r} a default, which could be "
                f"passed in place of the value; write it without: {signature}",
                code="plugin.wrong-hook",
                hook=hook,
            )
        if parameter.kind is parameter.KEYWORD_ONLY:
            raise PluginError(
                f"hook {hook!r} takes {shown!r} by keyword only, which pluggy does not pass; "
                f"remove the * from the signature: {signature}",
                code="plugin.wrong-hook",
                hook=hook,
            )
    if wraps != inspect.isgeneratorfunction(function):
        raise PluginError(
            f"hook {hook!r} "
            + (
                "is marked wrapper=True but has no yield"
                if wraps
                else "yields, which only a wrapper does; mark it @hookimpl(wrapper=True)"
            ),
            code="plugin.wrong-hook",
            hook=hook,
        )


def _check_wrapper(hook: str, specs: dict[str, tuple[str, ...]], marks: Any) -> None:
    if not wrappable(specs[hook]):
        raise PluginError(
            f"hook {hook!r} cannot be wrapped: it is asked of a plugin, not for a module or the "
            "data of a recipe, which name their wrappers",
            code="plugin.wrong-hook",
            hook=hook,
        )
    for mark in ("tryfirst", "trylast"):
        if marks.get(mark):
            raise PluginError(
                f"the wrapper of hook {hook!r} is marked {mark}=True; the recipe tells the order "
                "of wrappers (the innermost first), so leave it out",
                code="plugin.wrong-hook",
                hook=hook,
            )


def wrappable(arguments: tuple[str, ...]) -> str | None:
    """What of a recipe names the wrappers of a hook with these arguments, if anything does."""
    return next((subject for subject in ("module", "data") if subject in arguments), None)


def _defined(function: Function) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    name = getattr(function, "__name__", repr(function))
    return f"{name} (line {code.co_firstlineno})" if code else name
