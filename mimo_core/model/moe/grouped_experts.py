"""The mixture-of-experts layer for GPUs: the products of all experts of a rank in one kernel."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.activations import squared_relu
from megatron.core.fusions.fused_bias_swiglu import weighted_bias_swiglu_impl
from megatron.core.fusions.fused_weighted_squared_relu import weighted_squared_relu_impl
from megatron.core.models.gpt.moe_module_specs import get_moe_module_spec
from megatron.core.transformer.moe.experts import TEGroupedMLP
from megatron.core.transformer.moe.moe_layer import MoELayer
from megatron.core.transformer.moe.token_dispatcher import MoEAlltoAllTokenDispatcher

from mimo_core.model.moe.allgather_dispatcher import compute_shared_expert, gathered_tokens
from mimo_core.model.moe.grouped_gemm import grouped_product, lay_out


class GroupedExperts(TEGroupedMLP):  # type: ignore[misc]
    """``TEGroupedMLP`` with other products: same parameters, same checkpoints.

    In bf16, without biases; else, and with what only core's has (recomputed or offloaded
    activations, fp8, delayed weight gradients), it computes as core's.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.in_one_kernel = _fits(self)
        # Whether they fit or not: optimizer states that are saved as buffers lie
        # (dist_ckpt_optim_fully_reshardable: false) must find them so on every machine.
        lay_out(self.linear_fc1)
        lay_out(self.linear_fc2)

    def forward(
        self,
        permuted_local_hidden_states: torch.Tensor,
        tokens_per_expert: torch.Tensor,
        permuted_probs: torch.Tensor,
        **buffers: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As core's: ``[N, hidden]``, ``[experts]``, ``[N]`` to ``[N, hidden]``."""
        if not self.in_one_kernel:
            output: tuple[torch.Tensor, torch.Tensor | None] = super().forward(
                permuted_local_hidden_states, tokens_per_expert, permuted_probs, **buffers
            )
            return output
        ends = tokens_per_expert.cumsum(0, dtype=torch.int32)
        inner = grouped_product(permuted_local_hidden_states, ends, _weights(self.linear_fc1))
        activated = self.activate(inner, permuted_probs.unsqueeze(-1))
        return grouped_product(activated, ends, _weights(self.linear_fc2)), None

    def activate(self, inner: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        """The activation, times the router's probabilities: ``[N, width]`` and ``[N, 1]``."""
        config = self.config
        if config.gated_linear_unit:
            if config.activation_func is F.silu and config.bias_activation_fusion:
                fused: torch.Tensor = weighted_bias_swiglu_impl(inner, None, probabilities)
                return fused
            gate, value = inner.chunk(2, dim=-1)
            activated = config.activation_func(gate) * value
        elif config.activation_func is squared_relu and config.use_fused_weighted_squared_relu:
            fused = weighted_squared_relu_impl(inner, probabilities)
            return fused
        else:
            activated = config.activation_func(inner)
        return (activated * probabilities).to(inner.dtype)


class DeviceCounts(MoEAlltoAllTokenDispatcher):  # type: ignore[misc]
    """The all-to-all dispatcher with the number of each expert's tokens left on the GPU.

    Where all experts are on one rank, no number leaves the GPU at all: the host need not wait in
    the middle of every layer, and the tokens, sorted by expert, are not sorted once more.
    """

    @property
    def alone(self) -> bool:
        return bool(self.ep_size == 1 and self.tp_size == 1)

    def preprocess(self, routing_map: torch.Tensor) -> torch.Tensor:
        """Count each expert's tokens, ``[experts of this rank]``."""
        self._counts: torch.Tensor = super().preprocess(routing_map)
        return self._counts

    def dispatch_postprocess(
        self, global_input_tokens: torch.Tensor, global_probs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens, counts and probabilities as the experts take them."""
        if self.alone:
            return global_input_tokens, self._counts, global_probs
        tokens, _, probabilities = super().dispatch_postprocess(global_input_tokens, global_probs)
        return tokens, self._counts, probabilities

    def combine_preprocess(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The experts' outputs in the order in which they came."""
        if self.alone:
            return hidden_states
        output: torch.Tensor = super().combine_preprocess(hidden_states)
        return output

    def _maybe_dtoh_and_synchronize(
        self, point: str, tokens_per_expert: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        if self.alone:
            return tokens_per_expert
        moved: torch.Tensor = super()._maybe_dtoh_and_synchronize(point, tokens_per_expert)
        return moved


class GroupedMoELayer(MoELayer):  # type: ignore[misc]
    """``MoELayer`` with these: which dispatcher it makes is no part of its spec."""

    def __init__(self, *args: Any, even_tokens: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        gathered = gathered_tokens(self, kwargs["pg_collection"]) if even_tokens else None
        if gathered is not None:
            self.token_dispatcher = gathered
        elif getattr(self.experts, "in_one_kernel", False):
            self.token_dispatcher = DeviceCounts(
                self.num_local_experts,
                self.local_expert_indices,
                config=self.config,
                pg_collection=kwargs["pg_collection"],
            )
            compute_shared_expert(self)


def grouped_moe_builder(*, even_tokens: bool = False) -> Any:
    """What builds the MoE part of a layer of TransformerEngine's: routed experts in one kernel, and
    a shared expert.

    Args:
        even_tokens: All data-parallel ranks have equally many tokens, as they do but for packed
            samples (``Module.packing``): few expert-parallel ranks then gather all tokens instead
            of exchanging each expert's.
    """
    # The number of experts comes from the config; the spec only wants one.
    stock = get_moe_module_spec(use_te=True, num_experts=1, moe_grouped_gemm=True)
    submodules = stock.keywords["submodules"]
    grouped = submodules.experts
    assert isinstance(grouped, partial) and grouped.func is TEGroupedMLP
    experts = partial(GroupedExperts, *grouped.args, **grouped.keywords)
    return partial(
        GroupedMoELayer,
        submodules=dataclasses.replace(submodules, experts=experts),
        even_tokens=even_tokens,
    )


def _fits(experts: TEGroupedMLP) -> bool:
    config = experts.config
    refused = (
        config.add_bias_linear,
        config.fp8,
        config.fp4,
        config.use_te_activation_func,
        config.use_transformer_engine_op_fuser,
        config.moe_apply_probs_on_input,
        config.moe_paged_stash,
        config.delay_wgrad_compute,
        config.overlap_dispatch_backward_with_experts_wgrad,
        config.activation_func_clamp_value is not None,
        config.glu_linear_offset,
        config.gated_linear_unit and config.moe_mlp_glu_interleave_size is not None,
        config.activation_func_fp8_input_store,
        config.moe_expert_capacity_factor is not None,
        experts.activation_recompute,
        experts.offload_expert_fc1,
        experts.offload_moe_act,
        experts.offload_fused_group_mlp,
        experts.linear_fc1.single_grouped_weight,
    )
    weights = [*_weights(experts.linear_fc1), *_weights(experts.linear_fc2)]
    aligned = all(size % _ALIGNED == 0 for weight in weights for size in weight.shape)
    bf16 = all(weight.dtype is torch.bfloat16 for weight in weights)
    return aligned and bf16 and _has_kernel(weights[0].device) and not any(refused)


def _has_kernel(device: torch.device) -> bool:
    """Hopper and Blackwell; on other GPUs torch multiplies group by group, and asks for sizes."""
    return device.type == "cpu" or torch.cuda.get_device_capability(device)[0] in (9, 10)


_ALIGNED = 8
"""torch's grouped products want rows of a multiple of 16 bytes."""


def _weights(linear: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [getattr(linear, f"weight{number}") for number in range(linear.num_gemms)]  # type: ignore[call-overload]
