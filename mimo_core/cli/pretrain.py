"""``mimo-pretrain [RECIPE] [key=value …]``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mimo_core.cli.options import path_given
from mimo_core.errors import MimoError
from mimo_core.launch.preflight import check_arguments
from mimo_core.utils.standard_streams import show, usable_streams

app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)


@app.command(help="Train the model that a recipe describes, on this machine or under torchrun.")
def pretrain(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RECIPE] [KEY=VALUE …]",
            help="A recipe file, and keys of it to set, such as modules.vision.grid.dp=2. "
            "Without a recipe: the demo, which learns to read handwritten digits.",
        ),
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            parser=path_given,
            help="Folder of the run; runs/NAME-DATE-TIME by default. A run that has a checkpoint "
            "there goes on from it.",
        ),
    ] = None,
    no_plugin: Annotated[
        list[str] | None, typer.Option(help="Name of an installed plugin to leave out.")
    ] = None,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="Record a timeline of one iteration on all ranks, the third by default: short "
            "for profile.enabled=true.",
        ),
    ] = False,
    max_restarts: Annotated[
        int,
        typer.Option(
            min=0,
            help="Where a rank is killed or fails, go on from the newest checkpoint, at most so "
            "often without a new one in between.",
        ),
    ] = 0,
) -> None:
    from mimo_core.api import pretrain as run
    from mimo_core.launch.launcher import RunFailedError

    recipe, overrides = _split(arguments or [])
    if profile:
        overrides.append("--profile")
    try:
        run(
            recipe,
            overrides=overrides,
            run_dir=run_dir,
            disabled=no_plugin or (),
            max_restarts=max_restarts,
        )
    except ValueError as error:
        show(error, sys.stderr)
        raise typer.Exit(2) from None
    except RunFailedError as error:
        show(f"\n{error}", sys.stderr)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        show("\nstopped; all ranks have ended", sys.stderr)
        raise typer.Exit(130) from None


def _split(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The recipe, if one is named, and the keys to set. A file that exists is a recipe."""
    if arguments and ("=" not in arguments[0] or Path(arguments[0]).is_file()):
        return arguments[0], arguments[1:]
    return None, arguments


def main() -> None:
    """Entry point of the script, and of every rank that the launcher starts."""
    with usable_streams("the run goes on; its figures and logs are in its folder"):
        try:
            check_arguments(sys.argv)
        except MimoError as error:
            show(error, sys.stderr)
            sys.exit(2)
        app()


if __name__ == "__main__":
    main()
