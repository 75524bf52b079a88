"""Forward and backward, in fp32 and bf16, frozen and not. On one rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mimo_core.distributed.seeding import seed_module
from mimo_core.errors import MimoError
from mimo_core.testing.outcome import Finding, UndeclaredSupportError
from mimo_core.testing.rank_harness import Built, Rig


def repeatable(rig: Rig) -> Iterator[Finding]:
    """The same input gives the same output: in training too, from the same random state."""
    built = rig.whole
    batch = batch_of(built)
    for training in (False, True):
        built.model.train(training)
        outputs = []
        for _ in range(2):
            seed_module(3, built.graph.rng_prefixes[built.name], built.groups)
            with torch.no_grad():
                outputs.append(built.output(batch))
        if not torch.equal(*outputs):
            mode = "training" if training else "evaluation"
            yield Finding(
                said=f"{built.module.plugin!r} gives another output for the same batch in {mode}, "
                "from the same state of the random generators",
                fix="draw from torch's default generator or megatron's tracker, which checkpoints "
                "hold; keep no state between calls",
            )
            return


def gradients(rig: Rig) -> Iterator[Finding]:
    """Backward reaches every parameter that learns, with finite numbers."""
    built = rig.build()
    built.model.train()
    shake(built)
    learn(built, batch_of(built))
    yield from _unreached(built, built.parameters())


def bf16(rig: Rig) -> Iterator[Finding]:
    """With precision bf16 the rows are bf16, and outputs and gradients finite."""
    built = rig.build(precision="bf16")
    built.model.train()
    name = built.module.plugin
    types: list[torch.dtype] = []
    for part in built.by_part().values():
        if not built.module.is_language:
            part.register_forward_hook(lambda _part, _given, rows: types.append(rows.dtype))
    try:
        output = learn(built, batch_of(built))
    finally:
        wrong = [kind for kind in types if kind != torch.bfloat16]
        if wrong:
            yield Finding(
                said=f"{name!r} puts out {wrong[0]} where the module's precision is bf16",
                fix="compute in the parameters' type, or cast back: the projector and the other "
                "end of the bridge expect bf16",
            )
    if not output.isfinite().all():
        yield Finding(
            said=f"{name!r} puts out numbers that are not finite in bf16",
            fix="do what needs more digits in fp32, and cast back",
        )
    yield from _unreached(built, built.parameters(), zeros=True)


def frozen(rig: Rig) -> Iterator[Finding]:
    """What ``modules.NAME.freeze`` names keeps its values, and passes gradients on."""
    part = "language" if rig.whole.module.is_language else "encoder"
    try:
        built = rig.build(freeze=(part,))
    except MimoError as refused:
        if rig.bench.subject.kind != "wrapper":
            raise
        raise UndeclaredSupportError(f"freeze: {refused}") from refused
    built.model.train()
    name = built.module.plugin
    model = built.by_part()[part]  # type: ignore[index]
    before = {key: value.clone() for key, value in _tensors(model).items()}
    if built.module.is_language:
        yield from _passes_on(built)
    else:
        output = learn(built, batch_of(built))
        rest = {key: value for key, value in built.parameters().items() if value.requires_grad}
        if not output.requires_grad:
            yield Finding(
                said=f"with a frozen tower the rows of {name!r} have no gradient",
                fix="let the projector run outside of torch.no_grad()",
            )
        yield from _unreached(built, rest)
    learns = [key for key, value in model.named_parameters() if value.requires_grad]
    if learns:
        yield Finding(
            said=f"the frozen {part} of {name!r} learns all the same: {', '.join(learns[:3])}",
            fix="do not call requires_grad_() in forward or train(): the core freezes",
        )
    changed = [key for key, value in _tensors(model).items() if not torch.equal(value, before[key])]
    if changed:
        yield Finding(
            said=f"the frozen {part} of {name!r} changed in a forward: {', '.join(changed[:3])}",
            fix="update statistics in self.training alone: the core keeps frozen parts in eval "
            "mode",
        )
    if model.training or any(child.training for child in model.modules()):
        yield Finding(
            said=f"the frozen {part} of {name!r} is in training mode",
            fix="do not override train(), or call the parent's with the same mode",
        )


def batch_of(built: Built) -> Mapping[str, Any]:
    """The module's batch of the subject's samples."""
    batch = built.provide(built.samples())
    assert batch is not None
    return batch


@torch.no_grad()
def shake(built: Built) -> None:
    """Move every parameter a little: zeros and ones hide what stands behind them."""
    for number, value in enumerate(built.parameters().values()):
        generator = torch.Generator().manual_seed(number)
        value.add_(0.1 * torch.randn(value.shape, generator=generator).to(value))


def learn(built: Built, batch: Mapping[str, Any]) -> Tensor:
    """Forward, and backward of a sum in which every value counts; the output."""
    output = built.output(batch)
    value = output.float()
    if built.module.is_language:
        value = value * built.on_device(batch)["loss_mask"]
    else:
        # Each value with a factor of its own: a plain sum says nothing of what a norm took out.
        generator = torch.Generator().manual_seed(1)
        value = value * torch.randn(value.shape, generator=generator).to(value)
    if value.requires_grad:
        value.sum().backward()
    return output.detach().requires_grad_(output.requires_grad)


def _unreached(
    built: Built, parameters: Mapping[str, torch.nn.Parameter], *, zeros: bool = False
) -> Iterator[Finding]:
    learning = {name: value for name, value in parameters.items() if value.requires_grad}
    missing = [name for name, value in learning.items() if _silent(value, zeros)]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        yield Finding(
            said=f"no gradient reaches {', '.join(missing[:3])}{more} of {built.module.plugin!r}",
            fix="use the parameter in forward (no detach, no torch.no_grad()), or do not make it: "
            "what never learns is a buffer",
        )
    given = {name: value.grad for name, value in learning.items() if value.grad is not None}
    wrong = [name for name, gradient in given.items() if not gradient.isfinite().all()]
    if wrong:
        yield Finding(
            said=f"the gradient of {', '.join(wrong[:3])} of {built.module.plugin!r} is not finite",
            fix="look for a division by 0 or a root of 0 in forward",
        )


def _silent(parameter: torch.nn.Parameter, zeros: bool) -> bool:
    if parameter.grad is None:
        return True
    # An expert to which nothing was routed has zeros.
    expert = not getattr(parameter, "allreduce", True)
    return not (zeros or expert or bool(parameter.grad.any()))


def _passes_on(built: Built) -> Iterator[Finding]:
    """A frozen language model still teaches encoders."""
    from mimo_core.testing.checks.logits import rows_batch

    batch, rows = rows_batch(built)
    rows.requires_grad_()
    logits = built.logits(batch, rows=rows)
    if logits.requires_grad:
        logits.float().square().sum().backward()
    if rows.grad is None or not rows.grad.any():
        yield Finding(
            said=f"a frozen {built.module.plugin!r} passes no gradient to the rows of encoders",
            fix="leave torch.no_grad() out: the core freezes the parameters",
        )


def _tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
