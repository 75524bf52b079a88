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
from mimo_core.recipe.structure import structure
from mimo_core.testing.bench import Bench, host_of, kinds_of
from mimo_core.testing.checks import CHECKS, Check, checks_of
from mimo_core.testing.outcome import Outcome, outcome_of
from mimo_core.testing.subject import Kind, Subject

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
            f"Kinds: {', '.join(get_args(Kind))}"
        )
    given = _options(options)
    host = host_of([name])
    if name not in host.usable:
        yield _checked(CHECKS[0], Bench(_subject(name, kind or "dataset", given)))
        return
    bench = Bench(_subject(name, kind or _kind(host, name), given))
    lacking = [] if options else _lacking(bench)
    for check in checks_of(type(bench.subject)):
        if check.ranks:
            continue
        if lacking and check.needs_options:
            why = f"needs options: mimo plugins check {name} KEY=VALUE"
            if check.place == "options:round_trip":
                why += f" ({'; '.join(lacking)})"
            yield Checked(check=check.title, outcome=Outcome(status="skipped", why=why))
        else:
            yield _checked(check, bench)


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


def _kind(host: Host, name: str) -> Kind:
    kinds = kinds_of(host, name)
    if len(kinds) > 1:
        raise MimoError(
            f"the hooks of plugin {name!r} are for several kinds: check it once with each of "
            f"{', '.join(f'--kind {kind}' for kind in kinds)}"
        )
    return kinds[0]


def _lacking(bench: Bench) -> list[str]:
    """What the options class refuses where nothing is given."""
    if not bench.host.has("options", bench.name):
        return []
    _, mistakes = structure(bench.host.ask("options", bench.name), {})
    return [f"{'.'.join(map(str, path))}: {said}".removeprefix(": ") for path, said in mistakes]


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
            raise MimoError(f"{word!r} is no option: write KEY=VALUE, such as hidden_size=64")
        *outer, key = path.split(".")
        place = found
        for part in outer:
            place = place.setdefault(part, {})
        place[key] = yaml.safe_load(value)
    return found
