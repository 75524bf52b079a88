"""What a plugin builds its modules with; imports torch and megatron.

Together with ``mimo_core`` itself (the words and hooks, without torch) and ``mimo_core.testing``
this is all that a plugin may import: ``docs/plugins`` says what is promised of it.
"""

from mimo_core.distributed.context_parallel import cp_gather_order, gather_sequence, local_positions
from mimo_core.model.attention import PackedAttention
from mimo_core.model.config import transformer_config
from mimo_core.model.moe.grouped_experts import grouped_moe_builder
from mimo_core.model.moe.local_experts import local_moe_builder
from mimo_core.model.norm import RMSNorm

__all__ = [
    "PackedAttention",
    "RMSNorm",
    "cp_gather_order",
    "gather_sequence",
    "grouped_moe_builder",
    "local_moe_builder",
    "local_positions",
    "transformer_config",
]
