"""One launch of four ranks for ``test_cpu_platform``, ``test_rng`` and ``test_step``."""

from __future__ import annotations

import importlib
import random
import sys
import threading
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad

from mimo_core.contract import LANGUAGE, Grid
from mimo_core.planning.rank_layout import plan_layout

PROBE = '''\
"""Stands among megatron's modules, and among others, to tell what each sees."""

import torch
import torch.cuda as device_api
import torch.nn.functional as F
from torch import cuda
from torch.cuda import is_available


def tell(call):
    try:
        return str(call())
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def facts():
    one = torch.ones(1)
    return {
        "available": [
            torch.cuda.is_available(),
            device_api.is_available(),
            cuda.is_available(),
            is_available(),
        ],
        "zeros": tell(lambda: torch.zeros(1, device="cuda").device),
        "arange": tell(lambda: torch.arange(2, device=torch.device("cuda", 0)).device),
        "current": tell(lambda: torch.empty(1, device=torch.cuda.current_device()).device),
        "pinned": tell(lambda: torch.zeros(1, pin_memory=True).device),
        "to": tell(lambda: one.to("cuda").device),
        "to dtype": tell(lambda: one.to(device="cuda", dtype=torch.bfloat16).dtype),
        "cuda": tell(lambda: one.cuda().device),
        "module": tell(lambda: next(torch.nn.Linear(1, 1).cuda().parameters()).device),
        "type": one.type(),
        "bf16 type": one.bfloat16().type(),
        "cast": str(one.type(torch.float64).dtype),
        "plain": str(one.to(torch.float64).dtype),
        "isinstance": isinstance(one, torch.Tensor),
        "functional": F.relu(one).item(),
    }
'''
"""Written as ``megatron/probe.py`` and as ``probe.py``."""


@cache
def launch() -> list[dict[str, Any]]:
    """What every one of four ranks tells. Called by tests."""
    from mimo_core.testing import run_ranks

    with TemporaryDirectory() as folder:
        for file in (Path(folder) / "megatron" / "probe.py", Path(folder) / "plain_probe.py"):
            file.parent.mkdir(exist_ok=True)
            file.write_text(PROBE)
        return run_ranks(f"{__file__}:everything", ranks=4, timeout=1800, folder=folder)


def everything(platform: Any, folder: str) -> dict[str, Any]:
    sys.path.append(folder)
    return {"platform": _platform(), "rng": _rng(platform), "step": _step(platform)}


def _error(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none"


# The platform
def _platform() -> dict[str, Any]:
    from mimo_core.platforms.cpu import import_hook

    plain = importlib.import_module("plain_probe")
    result: dict[str, Any] = {"before": plain.facts()}
    methods = torch.Tensor.to
    import_hook.install()
    result["installed once"] = torch.Tensor.to is methods
    from megatron.core.tensor_parallel import random as tracker_module

    probe = importlib.import_module("megatron.probe")
    result |= {"inside": probe.facts(), "outside": plain.facts()}
    result["stock module"] = tracker_module.torch.cuda.is_available()
    result["threads"] = _in_threads([probe.facts, plain.facts])
    if torch.distributed.get_rank() == 0:
        from transformers.utils import is_torch_cuda_available

        result["transformers"] = is_torch_cuda_available()
    finders = list(sys.meta_path)
    sys.meta_path[:] = [f for f in finders if type(f).__module__ != import_hook.__name__]
    result["too late"] = _error(import_hook.install)
    sys.meta_path[:] = finders
    return result


def _in_threads(calls: list[Callable[[], Any]]) -> list[Any]:
    """Their results from threads that run at the same time."""
    results: list[Any] = [None] * len(calls)
    together = threading.Barrier(len(calls))

    def run(index: int) -> None:
        together.wait()
        results[index] = calls[index]()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


# Seeds
def _rng(platform: Any) -> dict[str, Any]:
    from megatron.core.tensor_parallel import get_cuda_rng_tracker

    from mimo_core.distributed.seeding import stable_seed

    half = {"tp": 2}
    layouts = {
        "alone": {LANGUAGE: {"tp": 2, "dp": 2}},
        "beside": {"vision": half, LANGUAGE: half},
        "stages": {LANGUAGE: {"tp": 2, "pp": 2}},
    }
    result: dict[str, Any] = {
        "seeds": {
            "language": stable_seed(1234, "language.", 0),
            "vision": stable_seed(1234, "vision.", 0),
            "run": stable_seed(1235, "language.", 0),
            "joined": [stable_seed(1, "ab", "c"), stable_seed(1, "a", "bc"), stable_seed(1, "abc")],
        },
        "draws": {name: _draws(platform, grids) for name, grids in layouts.items()},
    }
    outer = torch.rand(4).tolist()
    _draws(platform, layouts["stages"])
    first = torch.rand(2).tolist()
    with get_cuda_rng_tracker().fork():
        torch.rand(3)
    result["around fork"] = [outer, first + torch.rand(2).tolist()]
    return result


def _draws(platform: Any, grids: dict[str, dict[str, int]]) -> dict[str, Any]:
    """Seed this rank for its module, and draw."""
    from megatron.core.tensor_parallel import get_cuda_rng_tracker

    from mimo_core.distributed.process_groups import build_topology
    from mimo_core.distributed.seeding import seed_module

    layout = plan_layout({name: Grid(**sizes) for name, sizes in grids.items()})
    topology = build_topology(layout.grids, layout.rank_offsets, platform.backend)
    module = layout.module_of(torch.distributed.get_rank())
    seed_module(1234, f"{module}.", topology.groups[module])
    state = torch.get_rng_state()
    with get_cuda_rng_tracker().fork():
        tracked = torch.rand(2).tolist()
        again = torch.rand(2).tolist()
    restored = torch.equal(torch.get_rng_state(), state)
    default = torch.rand(2).tolist()
    torch.set_rng_state(state)
    host = [random.random(), float(np.random.rand())]
    return {
        "module": module,
        "tracked": tracked,
        "again": again,
        "default": default,
        "host": host,
        "restored": restored,
    }


# The forward step
def _step(platform: Any) -> dict[str, Any]:
    from mimo_core.distributed.process_groups import build_topology
    from mimo_core.train.forward_step import parallel_argmax, token_loss

    grid = Grid(tp=2, dp=2)
    topology = build_topology({LANGUAGE: grid}, {LANGUAGE: 0}, platform.backend)
    tp = topology.groups[LANGUAGE].tp
    part = partial(torch.chunk, chunks=2, dim=-1)
    cases = logits()
    result: dict[str, Any] = {
        name: parallel_argmax(part(whole)[tp.rank()], tp).tolist() for name, whole in cases.items()
    }
    alone = topology.groups[LANGUAGE].pp
    result["alone"] = parallel_argmax(cases["random"], alone).tolist()
    losses = torch.arange(6.0).reshape(2, 3)
    mask = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    for name, given in {"some": mask, "none": torch.zeros(2, 3)}.items():
        own = losses.clone().requires_grad_()
        total, count, reported = token_loss(given, own, more={"exact": torch.ones(2)})
        total.backward()
        result[f"loss of {name}"] = {
            "total": total.item(),
            "count": count.item(),
            "count type": str(count.dtype),
            "reported": {key: value.tolist() for key, value in reported.items()},
            "gradient": own.grad.tolist(),
        }
    own = part(cases["random"])[tp.rank()]
    for name, packed in (("evaluation", False), ("packed evaluation", True)):
        result[name] = _evaluate(topology.groups[LANGUAGE], own, packed=packed)
    shared = build_topology({LANGUAGE: Grid(tp=2, cp=2)}, {LANGUAGE: 0}, platform.backend)
    for name, packed in (("shared", False), ("packed and shared", True)):
        result[name] = _evaluate(shared.groups[LANGUAGE], own, packed=packed)
    return result


def logits() -> dict[str, torch.Tensor]:
    """``[B, S, V]`` of the whole vocabulary."""
    generator = torch.Generator().manual_seed(5)
    tied = torch.zeros(1, 3, 8)
    tied[0, 0, [3, 6]] = 1.0
    tied[0, 1, [5, 7]] = 1.0
    return {
        "random": torch.randn(3, 5, 8, generator=generator),
        "bf16": torch.randn(3, 5, 8, generator=generator).bfloat16(),
        "tied": tied,
    }


def answer_sheet() -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and loss mask ``[3, 5]``: all right; one learned token wrong; nothing learned."""
    labels = logits()["random"].argmax(-1)
    mask = torch.tensor([[0.0, 1, 1, 0, 0], [1, 1, 0, 0, 1], [0, 0, 0, 0, 0]])
    labels[0, 0] = (labels[0, 0] + 1) % 8
    labels[1, 4] = (labels[1, 4] + 1) % 8
    return labels, mask


def _evaluate(groups: Any, own_logits: torch.Tensor, *, packed: bool) -> dict[str, Any]:
    """The forward step of the language model's last stage over a stub of a model.

    Where cp is 2, every sample is padded to 8 positions.
    """
    from mimo_core.data.microbatch_dataset import Batch
    from mimo_core.distributed.context_parallel import local_positions
    from mimo_core.train.forward_step import ForwardStep

    cp = groups.cp
    length = 5 if cp.size() == 1 else 8
    labels, mask = (pad(tensor, (0, length - 5)) for tensor in answer_sheet())
    own_logits = pad(own_logits, (0, 0, 0, length - 5))
    given = {"labels": labels, "loss_mask": mask, "input_ids": labels}
    lengths = [length]
    if packed:
        lengths = [length] * 3
        given = {name: tensor.reshape(1, -1) for name, tensor in given.items()}
        given["lengths"] = torch.tensor(lengths, dtype=torch.int32)
        own_logits = own_logits.reshape(1, 3 * length, -1)
    if cp.size() > 1:
        own_logits = own_logits[:, local_positions(lengths, cp.size(), cp.rank())]
    batch = Batch(inputs={LANGUAGE: given}, rows={}, decoded=0)
    taken: list[Any] = []

    def batches() -> Iterator[Batch]:
        yield batch

    model: Any = SimpleNamespace(
        nodes={LANGUAGE: SimpleNamespace(name=LANGUAGE, plugin="stub", wrappers={})},
        has_language=True,
        training=False,
        pg_collection=groups,
        logits=lambda *_, **__: own_logits,
        losses=lambda output, labels: torch.ones(labels.shape),
    )
    communicator: Any = SimpleNamespace(is_pp_last_stage=True)
    platform: Any = SimpleNamespace(device=torch.device("cpu"))
    step = ForwardStep(communicator, platform, "caption_accuracy")
    step.answers = lambda told: taken.extend([t.tolist() for t in sample] for sample in told)
    output, loss = step(batches(), model)
    assert loss is not None
    _, _, reported = loss(output)
    return {"reported": {key: value.tolist() for key, value in reported.items()}, "answers": taken}
