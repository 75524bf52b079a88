"""A process that asks one plugin for what the launcher asks, and tells what that loaded."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from mimo_core.plugins.loading import HEAVY, Loaded, load


def main() -> None:
    """``python -m mimo_core.testing.fresh_process plan|samples|answers JSON``: a report as JSON,
    last."""
    what, text = sys.argv[1:]
    given = json.loads(text)
    report = {"plan": _plan, "samples": _samples, "answers": _answers}[what](given)
    print("\n" + json.dumps(report), end="")


def _plan(given: dict[str, Any]) -> dict[str, Any]:
    from mimo_core.plugins import discovery

    points = {one.name: one for one in discovery.candidates((), {}) if one.name in given["plugins"]}
    told: dict[str, Any] = {"hooks": {}}
    first, *_ = given["plugins"]
    found: list[Loaded] = []
    told["import"] = _watched(lambda: found.append(load(points[first].load, points[first].check)))
    told["import"]["warnings"] = [line for one in found for line in one.warnings]
    if told["import"]["error"] or given["recipe"] is None:
        return told
    from mimo_core.contract import LANGUAGE
    from mimo_core.planning.model_graph import build_graph
    from mimo_core.recipe import load_text
    from mimo_core.testing.fixtures import host_of

    host = host_of(given["plugins"])
    made: list[Any] = []
    loaded = load_text(given["recipe"], "recipe")
    told["hooks"]["describe_module"] = _watched(lambda: made.append(build_graph(loaded, host)))
    for graph in made:
        modules = [m for m in graph.modules.values() if m.plugin in given["plugins"]]
        for module in modules:
            if host.implements("param_mappings", module.plugin):
                told["hooks"]["param_mappings"] = _watched(
                    lambda m=module: host.call_hook("param_mappings", m.plugin, module=m)  # type: ignore[misc]
                )
        plugin = graph.data.plugin
        for hook in ("preview_samples", "preview_notes"):
            if host.implements(hook, plugin):
                told["hooks"][hook] = _watched(
                    lambda g=graph, h=hook: host.call_hook(h, g.data.plugin, data=g.data)  # type: ignore[misc]
                )
        assert LANGUAGE in graph.modules
    return told


def _samples(given: dict[str, Any]) -> dict[str, Any]:
    from mimo_core.planning.model_graph import build_graph
    from mimo_core.recipe import load_text
    from mimo_core.testing.checks.datasets import SPLITS, fingerprint
    from mimo_core.testing.fixtures import host_of

    host = host_of(given["plugins"])
    data = build_graph(load_text(given["recipe"], "recipe"), host).data
    told = []
    with contextlib.redirect_stdout(io.StringIO()):
        for split in SPLITS:
            dataset = host.call_hook("build_dataset", data.plugin, data=data, split=split)
            for index in range(min(given["count"], len(dataset))):
                sample = dataset[index]
                content = hashlib.sha256(repr(fingerprint(sample)).encode()).hexdigest()[:12]
                told.append([f"sample {index} of {split}", f"{sample.key} ({content})"])
    return {"samples": told}


def _answers(given: dict[str, Any]) -> dict[str, Any]:
    from mimo_core.contract import MediaItem
    from mimo_core.planning.model_graph import build_graph
    from mimo_core.planning.plugin_answers import answers_of
    from mimo_core.planning.sequence_budget import count_positions
    from mimo_core.recipe import load_text
    from mimo_core.testing.fixtures import host_of

    host = host_of(given["plugins"])
    with contextlib.redirect_stdout(io.StringIO()):
        graph = build_graph(load_text(given["recipe"], "recipe"), host)
        samples = []
        if host.implements("preview_samples", graph.data.plugin):
            samples = host.call_hook("preview_samples", graph.data.plugin, data=graph.data)
        read = {description.modality for description in graph.descriptions.values()}
        # The encoder beside a dataset or language model reads no media of the samples.
        counts = [
            count_positions(graph, sample)
            for sample in samples
            if {part.modality for part in sample.content if isinstance(part, MediaItem)} <= read
        ]
    return {"answers": answers_of(graph, counts)}


def _watched(call: Callable[[], Any]) -> dict[str, Any]:
    """What a call loaded that is heavy, printed, raised; and its seconds of processor time."""
    before = set(sys.modules)
    printed = io.StringIO()
    error = ""
    start = time.process_time()
    try:
        with contextlib.redirect_stdout(printed):
            call()
    except (Exception, SystemExit) as raised:
        error = f"{type(raised).__name__}: {raised}"
    loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
    return {
        "heavy": sorted(loaded & set(HEAVY)),
        "printed": printed.getvalue()[:200],
        "error": error,
        "seconds": time.process_time() - start,
    }


if __name__ == "__main__":
    main()
