"""One optimizer a module, one decision for the whole model.

Megatron's ``MimoOptimizer`` shares found-inf, gradient norm, zero count and success over the
world. What it is given differs here:

- every module's learning parameters, none where a module is wholly frozen, each with its own
  precision, learning rate and weight decay;
- what is saved once for all pipeline stages is saved by the first that has it;
- a pipeline stage where nothing learns takes part in the sums of its module's other stages;
- the group that numbers replicas in checkpoints spans data and context parallel ranks (core 0.19
  leaves context parallelism out, so two ranks would claim to be the main replica);
- where gradients are reduced during backward, in several buckets, what is saved of a parameter is
  its own state: :func:`~mimo_core.optimizer.states.include_bucket_padding`;
- states of torch's Adam from the start: without TransformerEngine or APEX core's
  ``DistributedOptimizer`` cannot load into an optimizer that has made no step.
"""

from mimo_core.optimizer.build import build_optimizer
from mimo_core.optimizer.optimizer import Optimizer

__all__ = ["Optimizer", "build_optimizer"]
