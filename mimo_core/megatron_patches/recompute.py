"""What is recomputed: megatron's own, with one thing mended."""

from __future__ import annotations

from typing import Any

from megatron.core.tensor_parallel import random
from torch.nn import Parameter

_STOCK = random.CheckpointFunction.forward


def patch_recompute_bias_output() -> None:
    """Have a function that is recomputed give parameters back as they are. Once or more a process,
    before a model is built.

    An MLP with biases gives its last one back, to be added later. megatron-core 0.19
    (``tensor_parallel/random.py``, ``CheckpointFunction``) lets autograd make that parameter an
    output of the recomputed function: its backward begins the function's backward again, and so on.
    """
    random.CheckpointFunction.forward = staticmethod(_forward)


def _forward(ctx: Any, run_function: Any, distribute_saved_activations: bool, *args: Any) -> Any:
    outputs = _STOCK(ctx, run_function, distribute_saved_activations, *args)
    if isinstance(outputs, tuple):
        return tuple(_apart(output) for output in outputs)
    return _apart(outputs)


def _apart(output: Any) -> Any:
    """Of a parameter, a tensor with the same values: gradients are of this one's."""
    return output.detach() if isinstance(output, Parameter) else output


__all__ = ["patch_recompute_bias_output"]
