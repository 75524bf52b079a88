"""Which parameters that learn get a gradient in the first step: a note names those that do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import torch
import torch.distributed as dist

from mimo_core.model.mimo import Model
from mimo_core.plan import Plan
from mimo_core.plugin_answers import titled

_SHOWN = 3


@attrs.frozen(kw_only=True)
class Reached:
    """Of one module on one rank."""

    pipeline_stage: int
    expected: frozenset[str]
    """Names of parameters that learn, without those of experts: a step may route no token there."""
    found: frozenset[str]
    """Those to which backward gave a gradient, whatever its values."""


class Watch:
    """Counts the parameters of this rank to which backward gives a gradient."""

    def __init__(self, model: Model) -> None:
        """Watch every parameter that learns until its first gradient.

        Args:
            model: This rank's, wrapped, before its first step.
        """
        self._model = model
        self._found: dict[str, set[str]] = {name: set() for name in model.nodes}
        self._hooks: list[Any] = []
        for module in model.nodes:
            for name, parameter in _learning(model, module):
                self._watch(module, name, parameter)

    def _watch(self, module: str, name: str, parameter: torch.nn.Parameter) -> None:
        def found(_parameter: torch.Tensor) -> None:
            self._found[module].add(name)

        self._hooks.append(parameter.register_post_accumulate_grad_hook(found))

    def end(self) -> dict[str, Reached]:
        """What was found, by module; nothing is watched afterwards."""
        for hook in self._hooks:
            hook.remove()
        for name, found in self._found.items():
            # Added in a product of backward.
            learning = _learning(self._model, name)
            found |= {n for n, one in learning if getattr(one, "grad_added_to_main_grad", False)}
        return {
            name: Reached(
                pipeline_stage=self._model.groups[name].pp.rank(),
                expected=frozenset(one for one, _ in _learning(self._model, name)),
                found=frozenset(found),
            )
            for name, found in self._found.items()
        }


def _learning(model: Model, module: str) -> list[tuple[str, torch.nn.Parameter]]:
    return [
        (name, parameter)
        for name, parameter in model.bare(module).named_parameters()
        if parameter.requires_grad
        and getattr(parameter, "allreduce", True)
        and ".experts." not in name
    ]


def unreached(plan: Plan, mine: dict[str, Reached]) -> list[str]:
    """A line for each module with parameters that no rank gave a gradient. Called by all ranks.

    A stage of which no parameter has one did not run, such as that of an encoder whose samples have
    no medium in the step: nothing is known of it.

    Args:
        plan: What is run.
        mine: What :meth:`Watch.end` returned on this rank.
    """
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, mine)
    return lines(plan, gathered)


def lines(plan: Plan, gathered: Sequence[dict[str, Reached]]) -> list[str]:
    """The lines of :func:`unreached`, of what all ranks found."""
    told = []
    for name, module in plan.graph.modules.items():
        stages: dict[int, list[Reached]] = {}
        for one in gathered:
            if name in one:
                stages.setdefault(one[name].pipeline_stage, []).append(one[name])
        missing: set[str] = set()
        for ranks in stages.values():
            found = frozenset[str]().union(*(one.found for one in ranks))
            if found:
                missing |= frozenset[str]().union(*(one.expected for one in ranks)) - found
        if missing:
            shown = sorted(missing)[:_SHOWN]
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            told.append(
                f"{titled(module)}: no gradient reaches {', '.join(shown)}{more} "
                f"({len(missing)} parameters) in the first step; the forward does not use them, or "
                "detaches them"
            )
    return told
