"""The tower: Whisper's encoder, from log-mel frames to the language model's rows.

On several pipeline stages, the first has the convolutions and the positions, the last the final
norm and gives rows; between stages hidden states travel, ``[S, B, H]``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlock
from torch import Tensor, nn

from mimo_plugin_whisper.options import Options


class WhisperTower(MegatronModule):  # type: ignore[misc]
    """Windows of sounds, packed, to rows of features; each window attends to itself.

    Args:
        config: The transformer's config.
        layer_spec: One transformer layer.
        options: The module's options.
        pg_collection: Process groups of the module on this rank.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_spec: ModuleSpec,
        options: Options,
        pg_collection: ProcessGroupCollection,
    ) -> None:
        super().__init__(config=config)
        self.options = options
        # Read by MegatronModule.sharded_state_dict, which else asks the global parallel state.
        self.tp_group = pg_collection.tp
        self.first_stage = pg_collection.pp.rank() == 0
        self.last_stage = pg_collection.pp.rank() == pg_collection.pp.size() - 1
        if self.first_stage:
            width, dtype = options.tower_width, config.params_dtype
            self.conv1 = nn.Conv1d(options.mel_bins, width, 3, padding=1, dtype=dtype)
            self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1, dtype=dtype)
            # Not learned, but saved: a file's table need not be this one to the last bit.
            self.register_buffer("positions", sinusoids(options.max_positions, width).to(dtype))
        # Hidden states come as an argument on every stage, so none of them awaits a set input.
        self.transformer = TransformerBlock(
            config, layer_spec, post_process=self.last_stage, pg_collection=pg_collection
        )

    def forward(
        self,
        lengths: Sequence[int],
        cu_seqlens: Tensor,
        mels: Tensor | None = None,
        hidden_states: Tensor | None = None,
    ) -> Tensor:
        """Rows of ``B`` windows.

        Args:
            lengths: Positions of each window.
            cu_seqlens: Where each window begins in the ``N`` positions of all, and the end: int32
                ``[B + 1]``.
            mels: On the first stage ``[B, mel bins, 2 * longest]``, of any float type.
            hidden_states: On later stages ``[N, 1, H]``.

        Returns:
            ``[N / stack, stack * H]`` in the model's precision, window after window. Before the
            last stage, hidden states.
        """
        if mels is not None:
            hidden_states = self._embed(mels, lengths)
        longest = max(lengths)
        features = self.transformer(
            hidden_states,
            attention_mask=None,
            packed_seq_params=PackedSeqParams(
                qkv_format="thd",
                cu_seqlens_q=cu_seqlens,
                cu_seqlens_kv=cu_seqlens,
                max_seqlen_q=longest,
                max_seqlen_kv=longest,
            ),
        )
        if not self.last_stage:
            return features  # type: ignore[no-any-return]
        return features.view(-1, self.options.output_width)  # type: ignore[no-any-return]

    def _embed(self, mels: Tensor, lengths: Sequence[int]) -> Tensor:
        """Frames ``[B, mel bins, 2 * longest]`` to embedded positions ``[N, 1, H]``.

        What stands behind a shorter window is not seen from inside it: the frames there are 0, as
        is the convolutions' own padding, and the second one begins at even frames.
        """
        frames = F.gelu(self.conv1(mels.to(self.conv1.weight.dtype)))
        embedded = F.gelu(self.conv2(frames)).transpose(1, 2)
        embedded = embedded + self.positions[: embedded.shape[1]]
        packed = torch.cat(
            [window[:length] for window, length in zip(embedded, lengths, strict=True)]
        )
        return F.dropout(packed, self.options.dropout, self.training)[:, None]


def sinusoids(length: int, width: int) -> Tensor:
    """Whisper's table of positions, float32 ``[length, width]``: sines, then cosines."""
    steps = torch.arange(width // 2, dtype=torch.float64)
    frequencies = torch.exp(-math.log(10_000) / (width // 2 - 1) * steps)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()
