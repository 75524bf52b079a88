"""``mimo plugins check``: the part of the conformance kit that needs neither ranks nor torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import attrs
import yaml
from rich.table import Table
from rich.text import Text

from mimo_core.errors import MimoError, suggestion
from mimo_core.plugins import Host
from mimo_core.recipe.converter import structure
from mimo_core.testing.checks import CHECKS, Check, checks_of
from mimo_core.testing.conformance_case import Kind, Subject
from mimo_core.testing.fixtures import REQUIRED, Bench, host_of, kinds_of
from mimo_core.testing.outcome import Outcome, outcome_of

_INVALID = "command.invalid-option"
_JUDGES_OPTIONS = "options:round_trip"
_MARKS = {"passed": ("✓", "green"), "failed": ("✗", "red"), "skipped": ("·", "yellow")}


@attrs.frozen(kw_only=True)
class Checked:
    """One check of an installed plugin."""

    check: str
    outcome: Outcome


def check_plugin(
    name: str, options: Sequence[str] = (), kind: str | None = None
) -> Iterator[Checked]:
    """Check an installed plugin.

    Args:
        name: Of its entry point.
        options: ``KEY=VALUE``; without them its defaults are looked at, where it has all.
        kind: What it is checked as; by default what its hooks are for.

    Raises:
        MimoError: there is no such plugin or kind, its hooks are for several kinds, or an option
            is no ``KEY=VALUE``.
    """
    if kind is not None and kind not in get_args(Kind):
        raise MimoError(
            f"there is no kind of plugins {kind!r}.{suggestion(kind, get_args(Kind))} "
            f"Kinds: {', '.join(get_args(Kind))}",
            code="command.unknown-kind",
            kind=kind,
            choices=get_args(Kind),
        )
    given = _options(options)
    host = host_of([name])
    if name not in host.usable_plugins:
        yield _checked(CHECKS[0], Bench(_subject(name, kind or "dataset", given)))
        return
    bench = Bench(_subject(name, kind or _kind(host, name), given))
    missing = [
        hook for hook in REQUIRED[bench.subject.kind] if not bench.host.implements(hook, name)
    ]
    refused = _refused(bench)
    lacking = [] if options else refused
    for check in checks_of(type(bench.subject)):
        if check.ranks:
            continue
        if missing and check.needs_options:
            why = f"needs what is missing: hook {', '.join(missing)}"
            yield Checked(check=check.title, outcome=Outcome(status="skipped", why=why))
        elif options and refused and check.needs_options and check.place != _JUDGES_OPTIONS:
            why = f"needs options that fit; see {_title(_JUDGES_OPTIONS)!r}"
            yield Checked(check=check.title, outcome=Outcome(status="skipped", why=why))
        elif lacking and check.needs_options:
            why = f"needs options: mimo plugins check {name} KEY=VALUE"
            if check.place == _JUDGES_OPTIONS:
                why += f" ({'; '.join(lacking)})"
            yield Checked(check=check.title, outcome=Outcome(status="skipped", why=why))
        else:
            yield _noted(_checked(check, bench), guessed=None if kind else bench.subject.kind)


def table(checked: Sequence[Checked]) -> Table:
    """For the screen."""
    made = Table(box=None, pad_edge=False, show_header=False)
    made.add_column()
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for one in checked:
        mark, colour = _MARKS[one.outcome.status]
        made.add_row(Text(mark, style=colour), one.check, Text(one.outcome.message))
    return made


def as_dict(checked: Checked) -> dict[str, Any]:
    """As ``--json`` prints it."""
    outcome = checked.outcome
    return {
        "check": checked.check,
        "status": outcome.status,
        "findings": [attrs.asdict(finding) for finding in outcome.findings],
        "why": outcome.why,
    }


def _checked(check: Check, bench: Bench) -> Checked:
    return Checked(check=check.title, outcome=outcome_of(lambda: check(bench)))


def _noted(checked: Checked, guessed: Kind | None) -> Checked:
    """What a plugin was taken for, where an encoder that lacks a hook looks the same."""
    first = checked.check == CHECKS[0].title and checked.outcome.status == "passed"
    if guessed != "language" or not first:
        return checked
    why = "as a language model; an encoder needs hook module_edges besides"
    return attrs.evolve(checked, outcome=attrs.evolve(checked.outcome, why=why))


def _kind(host: Host, name: str) -> Kind:
    kinds = kinds_of(host, name)
    if len(kinds) > 1:
        raise MimoError(
            f"the hooks of plugin {name!r} are for several kinds: check it once with each of "
            f"{', '.join(f'--kind {kind}' for kind in kinds)}",
            code="command.several-kinds",
            plugin=name,
            kinds=tuple(kinds),
        )
    return kinds[0]


def _title(place: str) -> str:
    return next(check.title for check in CHECKS if check.place == place)


def _refused(bench: Bench) -> list[str]:
    """What the options class refuses of those given."""
    if not bench.host.implements("options_class", bench.name):
        return []
    _, problems = structure(
        bench.host.call_hook("options_class", bench.name), bench.plain_options()
    )
    return [
        f"{'.'.join(map(str, problem.path))}: {problem.message}".removeprefix(": ")
        for problem in problems
    ]


def _subject(name: str, kind: str, options: Mapping[str, Any]) -> Subject:
    made: type[Subject] = type(
        "Checked", (Subject,), {"plugin": name, "kind": kind, "options": options}
    )
    return made()


def _options(words: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in words:
        path, equals, value = word.partition("=")
        if not path or not equals:
            message = f"{word!r} is no option: write KEY=VALUE, such as hidden_size=64"
            raise MimoError(message, code=_INVALID, word=word)
        *outer, key = path.split(".")
        place = found
        for part in outer:
            inner = place.setdefault(part, {})
            if not isinstance(inner, dict):
                message = f"{word!r}: {part!r} was given a value of its own before"
                raise MimoError(message, code=_INVALID, word=word, key=part)
            place = inner
        try:
            place[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            message = f"{word!r}: {value!r} cannot be read as YAML"
            raise MimoError(message, code=_INVALID, word=word, value=value) from None
    return found
