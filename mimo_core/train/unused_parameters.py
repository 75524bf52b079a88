"""Parameters that get no gradient, and fields of a config that the model does not read: notes name
them after the first step in which a module has something to do."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs
import torch
import torch.distributed as dist

from mimo_core.contract import LANGUAGE
from mimo_core.model.config_reads import fields_read
from mimo_core.model.cuda_graphs import encoder
from mimo_core.model.mimo_model import RankMimoModel
from mimo_core.planning.plan import Plan
from mimo_core.planning.plugin_answers import titled
from mimo_core.recipe.megatron_schema import shared_fields

_SHOWN = 3


@attrs.frozen(kw_only=True)
class Reached:
    """Of one module on one rank."""

    pipeline_stage: int
    expected: frozenset[str]
    """Names of parameters that learn, without those of experts: a step may route no token there."""
    found: frozenset[str]
    """Those to which backward gave a gradient, whatever its values."""
    fields: frozenset[str] = frozenset()
    """Fields of ``modules.NAME.megatron`` that its parts have read."""


class Watch:
    """Counts the parameters of this rank to which backward gives a gradient, and the fields that
    the parts of a module read."""

    def __init__(self, model: RankMimoModel) -> None:
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

    def end(self) -> None:
        """Stop watching."""
        for hook in self._hooks:
            hook.remove()

    def found(self) -> dict[str, Reached]:
        """What was found so far, by module."""
        for name, found in self._found.items():
            # Added in a product of backward.
            learning = _learning(self._model, name)
            found |= {n for n, one in learning if getattr(one, "grad_added_to_main_grad", False)}
        return {
            name: Reached(
                pipeline_stage=self._model.groups[name].pp.rank(),
                expected=frozenset(one for one, _ in _learning(self._model, name)),
                found=frozenset(found),
                fields=fields_read(name),
            )
            for name, found in self._found.items()
        }


def _learning(model: RankMimoModel, module: str) -> list[tuple[str, torch.nn.Parameter]]:
    return [
        (name, parameter)
        for name, parameter in model.bare(module).named_parameters()
        if parameter.requires_grad
        and getattr(parameter, "allreduce", True)
        and ".experts." not in name
    ]


def had_work(media: Mapping[str, int]) -> frozenset[str]:
    """The modules that had something to do in a step. Called by all ranks.

    Args:
        media: Media of the global batch for each encoder; empty on ranks that do not count them.
    """
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, {name for name, count in media.items() if count})
    return frozenset({LANGUAGE}.union(*gathered))


def unreached(
    plan: Plan, mine: dict[str, Reached], modules: Collection[str], *, last: bool
) -> list[str]:
    """A line for each module with parameters that no rank gave a gradient, and for each with fields
    that no rank read. Called by all ranks.

    A stage of which no parameter has a gradient did not run: nothing is known of it.

    Args:
        plan: What is run.
        mine: What :meth:`Watch.found` returned on this rank.
        modules: Those to look at: they had something to do.
        last: All others were looked at before.
    """
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, mine)
    return [*lines(plan, gathered, modules), *unread_fields(plan, gathered, modules, last=last)]


def lines(
    plan: Plan, gathered: Sequence[dict[str, Reached]], modules: Collection[str]
) -> list[str]:
    """The lines of parameters in :func:`unreached`, of what all ranks found."""
    told = []
    for name, module in plan.graph.modules.items():
        if name not in modules:
            continue
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


def unread_fields(
    plan: Plan, gathered: Sequence[dict[str, Reached]], modules: Collection[str], *, last: bool
) -> list[str]:
    """A line for each module with fields that the recipe sets for it and its parts do not read.

    A field that the recipe sets for all modules is in it only if no module reads it.
    """
    read = {
        name: frozenset[str]().union(*(one[name].fields for one in gathered if name in one))
        for name in plan.graph.modules
    }
    anywhere = frozenset[str]().union(*read.values())
    notes = []
    for name in plan.graph.modules:
        if name not in modules:
            continue
        fields = plan.recipe.modules[name].megatron.keys() - read[name] - {encoder.FIELD}
        if fields:
            notes.append(
                f"modules.{name}.megatron: nothing in {titled(plan.graph.modules[name])} reads "
                f"{', '.join(sorted(fields))}, so setting it has no effect"
            )
    common = shared_fields(plan.recipe.megatron).keys() - anywhere
    if common and last:
        notes.append(
            f"megatron: no module reads {', '.join(sorted(common))}, so setting it has no effect"
        )
    return notes
