"""``mimo``: plugins, plans, whether a layout is right, and weights out.

A command imports what it needs itself, so that ``--help`` does not wait for it: without torch are
``plugins`` and ``plan``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from mimo_core.cli import plugins
from mimo_core.cli.options import Json, NoPlugin, path_given
from mimo_core.errors import MimoError
from mimo_core.launch.preflight import check_arguments
from mimo_core.utils.standard_streams import Stream, explain, show, usable_streams
from mimo_core.utils.standard_streams import console as make_console

if TYPE_CHECKING:
    from mimo_core.planning.plan import Plan

app = typer.Typer(
    name="mimo",
    help="Plugins and recipes of multimodal training: shown, planned, verified; weights exported.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(plugins.app, name="plugins")


@app.command("plan")
def show_plan(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE", help="A recipe file, or one of the package by name."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY.PATH=VALUE", help="Replaces values of the recipe."),
    ] = None,
    as_json: Json = False,
    no_plugin: NoPlugin = None,
) -> None:
    """Checks a recipe and shows what it would run: its graph, its ranks and what each of them
    holds, and how full its sequences are."""
    from mimo_core.checkpoint.compatibility import start_notes
    from mimo_core.planning.plan import make_plan
    from mimo_core.planning.sequence_budget import label_notes
    from mimo_core.reporting.header import run_header
    from mimo_core.reporting.tables import memory_table, positions_table
    from mimo_core.utils import environment
    from mimo_core.weights.pretrained import directories, notes
    from mimo_core.weights.warm_start import starting_weights

    environment.check(os.environ)
    plan = make_plan(recipe, overrides or (), disabled=no_plugin or ())
    start = starting_weights(plan, done=None)
    saved = start.manifest if start else None
    weights = directories(plan, done=None, saved=saved)
    if as_json:
        print(json.dumps(plan_as_dict(plan), indent=2))
        return
    console = make_console()
    console.print(run_header(plan))
    parts = plan.graph.descriptions.values()
    console.print(
        f"{sum(part.num_parameters for part in parts):,} parameters in all", highlight=False
    )
    for line in (
        *plan.graph.notes,
        *plan.data_notes,
        *label_notes(plan.preview),
        *notes(weights, saved),
        *(start_notes(saved, plan) if saved else ()),
    ):
        console.print(line, highlight=False, soft_wrap=True)
    console.print("", memory_table(plan), sep="\n")
    if plan.preview:
        console.print("", positions_table(plan), sep="\n")


@app.command("doctor")
def look_at_everything(as_json: Json = False, no_plugin: NoPlugin = None) -> None:
    """What is installed, which versions work together, what this machine can run, and what is
    wrong. Ends with status 1 where something is."""
    from mimo_core.cli.doctor import doctor_screen
    from mimo_core.doctor import examine

    report = examine(no_plugin or ())
    if as_json:
        print(json.dumps([attrs.asdict(finding) for finding in report.findings], indent=2))
    else:
        make_console().print(doctor_screen(report))
    if report.wrong:
        raise typer.Exit(1)


@app.command("export")
def export_weights(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            parser=path_given,
            help="A run folder (its newest checkpoint), or iter_… .",
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", parser=path_given, help="The directory to make.")
    ],
    moved: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY.PATH=PLACE",
            help="Where a directory is now that the checkpoint's recipe names: "
            "modules.NAME.pretrained_weights, or an option of a module.",
        ),
    ] = None,
    module: Annotated[
        list[str] | None, typer.Option("--module", metavar="NAME", help="Write this module only.")
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            parser=path_given,
            help="A directory of the same model: its config.json and what is not ours are taken.",
        ),
    ] = None,
    no_plugin: NoPlugin = None,
) -> None:
    """Writes the weights of a checkpoint as a Hugging Face directory of safetensors."""
    from mimo_core.cli.export import find_checkpoint, modules_to_write, moved_weights
    from mimo_core.weights.export_place import check_out
    from mimo_core.weights.safetensors_dir import read_directory

    check_out(out)
    if like is not None:
        read_directory(like)
    checkpoint, recipe = find_checkpoint(source, moved or ())
    maps = modules_to_write(recipe, module or (), no_plugin or ())
    # Imports torch.
    from mimo_core.weights.export import export

    done = export(checkpoint, out, maps, like, moved=moved_weights(recipe, moved or ()))
    show(f"{done.tensors} tensors of {', '.join(maps)} from {checkpoint}")
    if done.taken:
        show(f"{len(done.taken)} taken from {like}: {', '.join(done.taken)}")
    for file in done.files:
        show(file)


def plan_as_dict(plan: Plan) -> dict[str, Any]:
    """The plan as ``mimo plan --json`` prints it: of every rank its bytes, of every sample that
    the dataset's plugin shows its positions."""
    from mimo_core.planning.memory_estimate import rank_memory

    graph, layout = plan.graph, plan.layout
    return {
        "placement": layout.kind,
        "world_size": layout.world_size,
        "modules": {
            name: {
                "plugin": module.plugin,
                "grid": {
                    key: size
                    for key, size in attrs.asdict(module.grid).items()
                    if key != "rank_offset"
                },
                "ranks": list(layout.ranks(name)),
                "freeze": list(module.freeze),
                "wrappers": plan.recipe.modules[name].wrappers,
                "rng_prefix": graph.rng_prefixes[name],
                **{
                    key: getattr(graph.descriptions[name], key)
                    for key in (
                        *("num_parameters", "hidden_size", "num_layers"),
                        *("num_attention_heads", "num_experts", "notes"),
                    )
                },
            }
            for name, module in graph.modules.items()
        },
        "data": {
            "plugin": graph.data.plugin,
            "wrappers": plan.recipe.data.wrappers,
            "notes": list(plan.data_notes),
        },
        "edges": [
            attrs.asdict(edge) | {"id": graph.tokenizer.placeholder_id(edge.placeholder)}
            for edge in graph.edges
        ],
        "ranks": [
            {
                "label": layout.rank_label(rank),
                "module": held.module,
                "parameters": held.parameters,
                "weights_bytes": held.weights,
                "gradients_bytes": held.gradients,
                "optimizer_bytes": held.optimizer,
            }
            for held in rank_memory(graph, layout)
            for rank in held.ranks
        ],
        "sequence_length": plan.recipe.train.sequence_length,
        "positions": [attrs.asdict(counts) | {"total": counts.total} for counts in plan.preview],
        "vocabulary_size": graph.tokenizer.size,
        "plugins": plan.host.versions(),
        "plugins_digest": plan.host.digest(),
    }


@app.command("verify")
def verify_recipe(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE", help="A recipe file, or one of the package by name."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY.PATH=VALUE", help="Replaces values of the recipe."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Iterations to compare.")] = 3,
    run_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            parser=path_given,
            help="Keep both runs in this folder, which must be empty.",
        ),
    ] = None,
    as_json: Json = False,
    no_plugin: NoPlugin = None,
) -> None:
    """Trains a recipe for a few steps in fp32, in its own layout and as one process, from the same
    weights on the same samples, and compares: loss, gradients and weights of every module.

    Ends with status 1 where they differ by more than the order of fp32 sums explains.
    """
    from mimo_core import platforms
    from mimo_core.launch.launcher import RunFailedError
    from mimo_core.verify import verify
    from mimo_core.verify.table import verdict_as_dict, verdict_table

    platforms.check()
    # The runs that it starts end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        verdict = verify(
            recipe,
            overrides=overrides or (),
            steps=steps,
            folder=run_dir,
            disabled=no_plugin or (),
            tell=lambda line: show(line, sys.stderr),
        )
    except RunFailedError as error:
        show(error, sys.stderr)
        raise typer.Exit(1) from None
    if as_json:
        print(json.dumps(verdict_as_dict(verdict), indent=2))
    else:
        make_console().print(verdict_table(verdict))
    if not verdict.equal:
        raise typer.Exit(1)


def main() -> None:
    """The program ``mimo``: a user's mistake ends it with its message alone and status 2, and so
    does an output that cannot be written."""
    with usable_streams() as out:
        try:
            check_arguments(sys.argv)
            app()
        except MimoError as error:
            show(error, sys.stderr)
            sys.exit(2)
        except OSError as error:
            show(MimoError(str(error), code="environment.system-error"), sys.stderr)
            sys.exit(2)
        finally:
            out.flush()
            _check_output(out)


def _check_output(out: Stream) -> None:
    """End with status 2 where the output was lost; as a signal would where its reader has ended,
    such as ``head``."""
    if isinstance(out.error, BrokenPipeError):
        sys.exit(128 + signal.SIGPIPE)
    if out.error is not None:
        show(explain("stdout", out.error), sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
