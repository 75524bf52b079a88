"""Parts of a module that adapt themselves when they are built."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import attrs
import torch
import torch.distributed as dist
from megatron.core.models.hybrid.hybrid_block import HybridStack
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlock
from torch import nn

from mimo_core import EncoderSpec, MimoError, ModuleConfig
from mimo_plugin_lora import sharded
from mimo_plugin_lora.layers import adapt, kind_of, tp_of, whole_shape
from mimo_plugin_lora.names import excess, is_target, numbered, place, split_key, unmatched
from mimo_plugin_lora.options import Part, options_of, parts_of


def adapted(
    parts: EncoderSpec | ModuleSpec, module: ModuleConfig, groups: ProcessGroupCollection
) -> EncoderSpec | ModuleSpec:
    """The module's parts, those that are to be adapted of classes that do it.

    Raises:
        MimoError: a part is not the plugin's, or no ``ModuleSpec`` of a class.
    """
    if not isinstance(parts, EncoderSpec):
        return _spec(parts, "language", module, groups)
    fields = {"encoder": "tower", "projector": "projector"}
    changed = {}
    for part in parts_of(module):
        spec = getattr(parts, fields[part])
        if spec is None:
            raise MimoError(
                f"module {module.name!r} has the core's own affine {part}, which can only learn "
                "as a whole; leave it out",
                place(module, "parts"),
                code="lora.not-adaptable",
                module=module.name,
                part=part,
            )
        changed[fields[part]] = _spec(spec, part, module, groups)
    return attrs.evolve(parts, **changed)


def _spec(
    spec: ModuleSpec, part: Part, module: ModuleConfig, groups: ProcessGroupCollection
) -> ModuleSpec:
    base = getattr(spec, "module", None)
    if not isinstance(base, type):
        raise MimoError(
            f"the {part} of module {module.name!r} is {spec!r}, not the ModuleSpec of a class",
            place(module),
            code="lora.not-adaptable",
            module=module.name,
            part=part,
        )
    made = type(base.__name__, (AdaptedPart, base), {"lora": (part, module, groups)})
    return dataclasses.replace(spec, module=made)


class AdaptedPart:
    """Put before the class of a part: adapts its linear layers once it is built."""

    lora: tuple[Part, ModuleConfig, ProcessGroupCollection]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        part, module, groups = self.lora
        whole: Any = self
        whole.requires_grad_(False)
        self._lora_statistics = [one for one in whole.modules() if _keeps_statistics(one)]
        options = options_of(module)
        state = super().sharded_state_dict(metadata={"dp_cp_group": groups.dp_cp})  # type: ignore[misc]
        named = dict(_named(whole, state))
        _check(module, named, groups)
        self._lora_layers = {}
        for name, (path, layer) in named.items():
            if is_target(name, options.targets):
                kind = kind_of(layer)
                assert kind is not None
                seed = "\0".join((str(module.train.seed), module.name, part, name))
                adapt(layer, kind, options.rank, options.scale, seed)
                self._lora_layers[path] = layer
        for block in whole.modules():
            if isinstance(block, TransformerBlock | HybridStack):
                block.register_forward_pre_hook(_with_gradient, with_kwargs=True)

    def train(self, mode: bool = True) -> Any:
        """As the part; what keeps statistics below the adapters does not learn."""
        trained = super().train(mode)  # type: ignore[misc]
        for one in self._lora_statistics:
            one.training = False
        return trained

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None
    ) -> dict[str, Any]:
        """What the part gives, and the adapters."""

        def ask() -> dict[str, Any]:
            state: dict[str, Any] = super(AdaptedPart, self).sharded_state_dict(  # type: ignore[misc]
                prefix, sharded_offsets, metadata
            )
            return state

        return sharded.with_adapters(ask(), self._lora_layers, prefix, ask)


def _keeps_statistics(module: nn.Module) -> bool:
    """Whether a layer has buffers that its forward may move in training: batch norms, estimates of
    spectral norms. The core keeps those of routers."""
    saved = module._buffers.keys() - module._non_persistent_buffers_set
    leaf = next(module.children(), None) is None
    return bool(saved) and leaf and not isinstance(module, TopKRouter)


def _named(part: nn.Module, state: dict[str, Any]) -> Iterator[tuple[str, tuple[str, nn.Module]]]:
    """Names of all that has a matrix as its weight, with their paths and modules on this rank."""
    for path, layer in part.named_modules():
        entry = state.get(f"{path}.weight")
        if entry is None:
            # TransformerEngine's grouped experts have a weight for each.
            if isinstance(getattr(layer, "weight0", None), nn.Parameter):
                yield path, (path, layer)
            continue
        first = sharded.first_of(entry)
        if len(first.local_shape) == 2:
            split = split_key(first.key)
            assert split is not None, first.key
            yield numbered(split[0], sharded.index_of(first)), (path, layer)


def _check(
    module: ModuleConfig, named: dict[str, tuple[str, nn.Module]], groups: ProcessGroupCollection
) -> None:
    """Whether every target names linear layers, and nothing but, none of them smaller than the
    rank. Called by all ranks of the part.

    Raises:
        MimoError: says which does not, the same on all ranks.
    """
    targets = options_of(module).targets
    linear = [name for name, (_, layer) in named.items() if kind_of(layer) is not None]
    wrong = {
        name: error
        for name, (_, layer) in named.items()
        if is_target(name, targets) and (error := _wrong(module, name, layer)) is not None
    }
    found: list[Any] = [(linear, wrong)]
    group = groups.tp_ep_pp
    if group.size() > 1:
        found *= group.size()
        dist.all_gather_object(found, (linear, wrong), group=group)
    for _, theirs in found:
        for error in theirs.values():
            raise _placed(error)
    missing = unmatched(module, [name for theirs, _ in found for name in theirs])
    if missing is not None:
        raise _placed(missing)


def _placed(error: MimoError) -> MimoError:
    """The error with the keys of the recipe in its message: a rank does not add their place."""
    keys = ".".join(map(str, error.path))
    return MimoError(f"{keys}: {error.text}", code=error.code, **error.values)


def _wrong(module: ModuleConfig, name: str, layer: Any) -> MimoError | None:
    """The error where a layer that a pattern names cannot be adapted."""
    if (said := _refused(layer)) is not None:
        return MimoError(
            f"a pattern names {name!r}, which {said}",
            place(module, "targets"),
            code="lora.not-adaptable",
            module=module.name,
            layer=name,
        )
    return excess(module, name, *whole_shape(layer))


def _refused(layer: Any) -> str | None:
    """Why a layer cannot be adapted."""
    if hasattr(layer, "weight0"):
        return (
            "holds several experts in one layer (TransformerEngine's grouped GEMM); adapters go on "
            "experts that are layers of their own, so leave these out"
        )
    if getattr(layer, "weight", None) is None:
        return "has no weight of its own (it is tied to another); leave it out"
    if kind_of(layer) is None:
        return f"is a {type(layer).__name__}, no linear layer; name linear layers alone"
    if getattr(layer, "is_expert", False) and tp_of(layer)[0] > 1:
        return "is an expert divided over etp; set grid.etp to 1, or leave it out"
    return None


def _with_gradient(
    block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Let gradients go through layers that are recomputed: megatron's checkpoints give none to the
    parameters inside of them where no input wants any, as below the first adapter."""
    if not torch.is_grad_enabled() or block.config.recompute_granularity is None:
        return None
    hidden = kwargs.get("hidden_states", args[0] if args else None)
    if not isinstance(hidden, torch.Tensor) or hidden.requires_grad:
        return None
    hidden = hidden.detach().requires_grad_()
    if "hidden_states" in kwargs:
        return args, {**kwargs, "hidden_states": hidden}
    return (hidden, *args[1:]), kwargs
