"""States of core's ``DistributedOptimizer``: made, gathered and loaded as they should be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def initialize_states(optimizers: list[Any]) -> None:
    """Give Adam the state that it would make in its first step: a run can be saved before it."""
    for inner in optimizers:
        adam = inner.optimizer
        if not keeps_steps_in_state(adam):
            inner.init_state_fn(adam, inner.config)
            continue
        for group in adam.param_groups:
            for parameter in group["params"]:
                adam.state[parameter] = {
                    "step": torch.tensor(0.0),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }


def load_without_steps(optimizers: list[Any]) -> None:
    """Hide the steps of torch's Adam from core, which looks for each in a state that can be
    resharded and holds none (``DistributedOptimizer._set_main_param_and_optimizer_states``).
    ``Optimizer.load_state_dict`` puts them back."""

    def hiding(inner: Any, load: Callable[[Any], None]) -> Callable[[Any], None]:
        def load_without_steps(state: Any) -> None:
            for of_parameter in inner.optimizer.state.values():
                of_parameter.pop("step", None)
            load(state)

        return load_without_steps

    for inner in optimizers:
        if keeps_steps_in_state(inner.optimizer):
            inner.load_parameter_state_from_fully_reshardable = hiding(
                inner, inner.load_parameter_state_from_fully_reshardable
            )


def include_bucket_padding(optimizers: list[Any]) -> None:
    """Gather states as the buffers lie, with the padding between their buckets.

    Core 0.19 leaves the padding out (``DistributedOptimizer.get_parameter_state_dp_zero``), and
    then looks parameters up where they lie in the buffers
    (``sharded_param_state_fully_reshardable``): from the second bucket on, each would be saved with
    a part of another's state.
    """

    def keeping(inner: Any, gather: Callable[..., Any]) -> Callable[..., Any]:
        def get_parameter_state_dp_zero(*args: Any, **kwargs: Any) -> Any:
            state = gather(*args, **kwargs)
            for number, buffer in enumerate(inner.buffers if state is not None else ()):
                for tensors in state[number].values():
                    for key, tensor in tensors.items():
                        if isinstance(tensor, torch.Tensor):
                            tensors[key] = _with_padding(tensor, buffer)
            return state

        return get_parameter_state_dp_zero

    for inner in optimizers:
        inner.get_parameter_state_dp_zero = keeping(inner, inner.get_parameter_state_dp_zero)


def _with_padding(gathered: torch.Tensor, buffer: Any) -> torch.Tensor:
    """Of the buckets of a buffer, one after another, ``[unpadded]``: as they lie in it."""
    laid = gathered.new_zeros(buffer.numel)
    for bucket, part in zip(
        buffer.buckets,
        gathered.split([each.numel_unpadded for each in buffer.buckets]),
        strict=True,
    ):
        laid[bucket.offset : bucket.offset + bucket.numel_unpadded] = part
    return laid


def keeps_steps_in_state(optimizer: Any) -> bool:
    """torch's Adam counts steps in every parameter's state; TransformerEngine's in its groups."""
    return isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW)
