"""What a process does that knows nothing yet: listing, planning, reading the same samples."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

import yaml

from mimo_core.errors import MimoError
from mimo_core.testing.fixtures import Bench
from mimo_core.testing.outcome import Finding, UndeclaredSupportError

SLOW = 3.0
"""Seconds of processor time at import, after which the listing is slow; torch takes about as long.
An import that is not heavy takes a hundredth of it."""
_TIMEOUT = 1800.0


def listing(bench: Bench) -> Iterator[Finding]:
    """Importing the plugin loads nothing heavy, takes no time and says nothing."""
    told = _told(bench)["import"]
    if told["error"]:
        yield Finding(
            said=f"plugin {bench.name!r} cannot be imported in a process of its own: "
            f"{told['error']}",
            fix="import only what is installed with it; leave the process to the host",
        )
    for warning in told["warnings"]:
        yield Finding(
            said=f"plugin {bench.name!r} {warning}",
            fix="do it in the hooks that need it: every command of the host imports the plugin",
        )
    if not told["warnings"] and told["seconds"] > SLOW:
        yield Finding(
            said=f"importing plugin {bench.name!r} takes {told['seconds']:.1f} s of processor time",
            fix="do the work inside the hooks that need it: every command of the host imports it",
        )


def planning(bench: Bench) -> Iterator[Finding]:
    """The hooks that the plan asks load nothing heavy."""
    _ = bench.inner  # a wrapper alone is never planned
    told = _told(bench)
    for hook, step in told["hooks"].items():
        if step["heavy"]:
            yield _heavy(bench, step["heavy"], f"hook {hook!r}", "planning")
        if step["error"]:
            yield Finding(said=step["error"], fix=f"mend the hooks that {hook!r} stands for")


def same_samples(bench: Bench) -> Iterator[Finding]:
    """Two ranks, whose hashes differ, read the same samples in the same order."""
    first, second = (_run(bench, "samples", rank, rank)["samples"] for rank in ("0", "1"))
    for one, other in zip(first, second, strict=False):
        if one != other:
            yield Finding(
                said=f"two processes read other samples: {one[0]} of {bench.name!r} is "
                f"{one[1]} in one, {other[1]} in the other",
                fix="order and contents must not follow from sets, hash(), the clock, the process "
                "or the machine: every rank builds the dataset by itself; sort, or draw from "
                "data.seed",
            )
            return


def same_answers(bench: Bench) -> Iterator[Finding]:
    """Two ranks get the same answers."""
    _ = bench.inner  # a wrapper alone is never planned
    first, second = (_run(bench, "answers", rank, rank)["answers"] for rank in ("0", "1"))
    for where in dict.fromkeys([*first, *second]):
        one, other = (answers.get(where, "nothing") for answers in (first, second))
        if one != other:
            yield Finding(
                said=f"{where}: {one} on rank 0, {other} on rank 1",
                fix="an answer must follow from the hook's arguments only, not from the rank, the "
                "machine, the environment, sets or hash(): a run compares all ranks before it "
                "starts",
            )
            return


def _heavy(bench: Bench, heavy: list[str], what: str, when: str) -> Finding:
    return Finding(
        said=f"{what} of {bench.name!r} loads {', '.join(heavy)}",
        fix=f"import it inside the functions that need it: {when} must stay instant",
    )


def _told(bench: Bench) -> Any:
    """The process's report; made once for a plugin and its options."""
    return _run(bench, "plan", "0")


def _run(bench: Bench, what: str, hash_seed: str, rank: str | None = None) -> Any:
    if not all(isinstance(name, str) for name in bench.plugins):
        raise UndeclaredSupportError("a process of its own: the plugin is an object, not installed")
    given = {"plugins": bench.plugins, "count": bench.subject.looked_at, "recipe": None}
    if bench.subject.kind != "wrapper" or bench.subject.wraps is not None:
        given["recipe"] = yaml.safe_dump(bench.recipe(), sort_keys=False)
    return json.loads(_output(what, json.dumps(given), hash_seed, rank))


@cache
def _output(what: str, given: str, hash_seed: str, rank: str | None) -> str:
    environ = os.environ | {
        "PYTHONHASHSEED": hash_seed,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    if rank is not None:
        environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
    done = subprocess.run(
        [sys.executable, "-m", "mimo_core.testing.fresh_process", what, given],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        timeout=_TIMEOUT,
        env=environ,
    )
    report = done.stdout.rpartition("\n")[2]
    if done.returncode or not report:
        raise MimoError(
            f"a process that imports the plugin ended with status {done.returncode}: "
            f"{done.stderr.strip()[-2000:]}",
            code="testing.import-failed",
            status=done.returncode,
        )
    return report
