"""Whisper's attention: queries and values have biases, keys have none."""

from __future__ import annotations

from typing import Any

import torch
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.attention import SelfAttention
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor, nn


class WhisperAttention(SelfAttention):  # type: ignore[misc]
    """Megatron's attention with biases on queries and values alone.

    Megatron's fused linear layer has a bias for all three or for none, so it has none here. A bias
    of the keys adds the same to all scores of a query, which a softmax does not see: its gradient
    is rounding noise, which Adam would blow up to whole steps, and files have no place for it.
    """

    def __init__(self, config: TransformerConfig, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        own = self.query_projection_size // self.world_size
        for name in ("q_bias", "v_bias"):
            bias = nn.Parameter(torch.zeros(own, dtype=config.params_dtype))
            set_tensor_model_parallel_attributes(bias, is_parallel=True, dim=0, stride=1)
            self.register_parameter(name, bias)

    def get_query_key_value_tensors(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """Queries, keys and values, each ``[S, B, heads / tp, D]``."""
        query, key, value = super().get_query_key_value_tensors(*args, **kwargs)
        heads = self.num_attention_heads_per_partition
        return query + self.q_bias.view(heads, -1), key, value + self.v_bias.view(heads, -1)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None
    ) -> dict[str, Any]:
        """The two biases are divided over tp, which core cannot know."""
        state: dict[str, Any] = super().sharded_state_dict(prefix, sharded_offsets, metadata)
        return state | make_sharded_tensors_for_checkpoint(
            {"q_bias": self.q_bias, "v_bias": self.v_bias},
            prefix,
            {"q_bias": 0, "v_bias": 0},
            sharded_offsets,
            tp_group=self.tp_group,
            dp_cp_group=metadata["dp_cp_group"],
        )
