"""``mimo plugins``: what is installed, whether it is sound, and a new one begun."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import attrs
import typer

from mimo_core.cli.options import Json, NoPlugin, path_given
from mimo_core.utils.standard_streams import console, show

if TYPE_CHECKING:
    from rich.table import Table

    from mimo_core.plugins import PluginRecord

app = typer.Typer(
    help="Installed plugins, listed and checked; a new one begun.", no_args_is_help=True
)
_STATE_COLOURS = {"usable": "green", "broken": "red", "disabled": "yellow"}


@app.command("list")
def list_plugins(as_json: Json = False, no_plugin: NoPlugin = None) -> None:
    """Every installed plugin: distribution, version, hooks, and whether it can be used."""
    from mimo_core.plugins import Host
    from mimo_core.recipe import builtin

    records = Host.discover(no_plugin or ()).records
    if as_json:
        print(json.dumps([attrs.asdict(record) for record in records], indent=2))
    elif records:
        console().print(_table(records))
    else:
        show(f"no plugins are installed; try: pip install {' '.join(builtin.distributions())}")


@app.command("check")
def check_installed(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As recipes call the plugin.")],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Its options; by default its own defaults."),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="encoder, language, dataset or wrapper; by default what its hooks say."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Checks what a host expects of a plugin, as far as neither ranks nor torch are needed.

    Ends with status 1 where something is wrong. The whole is `mimo_core.testing.Conformance`.
    """
    from mimo_core.cli.check import as_dict, check_plugin, table

    checked = list(check_plugin(name, options or (), kind))
    if as_json:
        print(json.dumps([as_dict(one) for one in checked], indent=2))
    else:
        console().print(table(checked))
    if any(one.outcome.status == "failed" for one in checked):
        raise typer.Exit(1)


@app.command("new")
def new_plugin(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The plugin's, as recipes will say it.")
    ],
    kind: Annotated[str, typer.Option(help="encoder, language, dataset or wrapper.")],
    directory: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", parser=path_given, help="Write it here; default: ./mimo-plugin-NAME."
        ),
    ] = None,
) -> None:
    """Writes a new plugin: a complete distribution whose tests pass, to be changed from there."""
    from mimo_core.scaffold import write_plugin

    written = write_plugin(name, kind, directory)
    show(f"{written.folder}/")
    for file in written.files:
        show(f"  {file}")
    show(f"\nnext:\n  cd {shlex.quote(str(written.folder))}")
    show("  pip install -e '.[test]'\n  pytest")


def _table(records: tuple[PluginRecord, ...]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("plugin", "distribution", "version", "state", "hooks"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "plugin")
    for record in records:
        table.add_row(
            record.name,
            record.distribution,
            record.version,
            Text(record.state, style=_STATE_COLOURS[record.state]),
            Text("\n".join([record.reason or ", ".join(record.hooks), *record.warnings])),
        )
    return table
