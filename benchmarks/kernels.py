"""What the GPU did in a profiled iteration, by kernel.

mimo-pretrain RECIPE --profile profile.torch_profiler=true --run-dir runs/one
python -m benchmarks.kernels runs/one/profile/kernels-rank-0.json.gz
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import attrs
import typer
from rich.console import Console

from mimo_core.errors import MimoError

_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
"""Categories of torch's profiler."""

app = typer.Typer(add_completion=False)


@attrs.frozen(kw_only=True)
class Work:
    """What a GPU did between its first kernel and the end of its last; microseconds."""

    span: float
    busy: float
    """In which anything ran: kernels beside each other count once."""
    kernels: Mapping[str, tuple[int, float]]
    """By name: how many, and how long together; longest first."""


def work(events: Iterable[Mapping[str, Any]]) -> Work | None:
    """Of a Chrome trace by torch's profiler; ``None`` where it has no kernels.

    Args:
        events: Its ``traceEvents``.
    """
    ran = [event for event in events if event.get("cat") in _DEVICE]
    if not ran:
        return None
    counted: dict[str, tuple[int, float]] = {}
    for event in ran:
        number, seconds = counted.get(event["name"], (0, 0.0))
        counted[event["name"]] = (number + 1, seconds + event["dur"])
    times = sorted((event["ts"], event["ts"] + event["dur"]) for event in ran)
    busy, end = 0.0, times[0][0]
    for begins, ends in times:
        busy += max(0.0, ends - max(begins, end))
        end = max(end, ends)
    return Work(
        span=end - times[0][0],
        busy=busy,
        kernels=dict(sorted(counted.items(), key=lambda one: -one[1][1])),
    )


def events_of(trace: Path) -> list[Mapping[str, Any]]:
    """The events of a trace.

    Raises:
        MimoError: the file is none of a run's traces, or damaged.
    """
    try:
        with gzip.open(trace) as file:
            told = json.load(file)
    except (OSError, EOFError, zlib.error) as error:
        cut = isinstance(error, EOFError)
        why = "it ends too early" if cut else f"it cannot be read as gzip: {error}"
        raise _no_trace(trace, why) from None
    except ValueError as error:
        raise _no_trace(trace, f"there is no JSON in it: {error}") from None
    events = told.get("traceEvents") if isinstance(told, dict) else None
    if not isinstance(events, list):
        raise _no_trace(trace, "its JSON has no list of traceEvents")
    for number, event in enumerate(events):
        if not isinstance(event, dict):
            raise _no_trace(trace, f"event {number} is no object")
        times = [event.get(key) for key in ("ts", "dur")]
        named = isinstance(event.get("name"), str)
        timed = all(isinstance(time, int | float) for time in times)
        if event.get("cat") in _DEVICE and not (named and timed):
            raise _no_trace(trace, f"event {number}, of a GPU, has no name, ts or dur")
    return events


def _no_trace(trace: Path, why: str) -> MimoError:
    return MimoError(
        f"{trace}: {why}; expected profile/kernels-rank-N.json.gz of a run with "
        "--profile profile.torch_profiler=true",
        code="benchmark.no-trace",
        file=str(trace),
        cause=why,
    )


@app.command()
def main(
    trace: Annotated[
        Path,
        typer.Argument(
            exists=True,
            dir_okay=False,
            help="profile/kernels-rank-N.json.gz of a run with --profile "
            "profile.torch_profiler=true.",
        ),
    ],
    most: Annotated[int, typer.Option(min=1, help="Kernels that are shown.")] = 40,
) -> None:
    """Show how long the GPU was busy, and with what."""
    console = Console()
    try:
        found = work(events_of(trace))
    except MimoError as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
    if found is None:
        said = f"{trace} has no kernels: was it recorded on a GPU?"
        console.print(said, style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1)
    console.print(f"busy {found.busy / 1e3:.1f} of {found.span / 1e3:.1f} ms")
    for name, (number, took) in list(found.kernels.items())[:most]:
        row = f"{took / 1e3:9.2f} ms {number:6d}  {name}"
        console.print(row, markup=False, highlight=False, no_wrap=True, overflow="ellipsis")


if __name__ == "__main__":
    app()
