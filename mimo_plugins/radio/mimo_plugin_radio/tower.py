"""The tower: megatron-core's RADIO model, from pictures to the language model's rows.

On several pipeline stages, the first embeds pictures; the last gives rows; between stages hidden
states travel, ``[S, B, H]`` with class tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange
from megatron.core.models.vision.radio import RADIOViTModel
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlock

from mimo_plugin_radio.even import EvenShapes, Pictures
from mimo_plugin_radio.options import Options
from mimo_plugin_radio.sizes import Size


class LaterStage(MegatronModule):  # type: ignore[misc]
    """The layers of a pipeline stage after the first, under the names of ``RADIOViTModel``.

    In megatron-core 0.19 that builds every stage as the first (``models/vision/radio.py``).
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer_spec: ModuleSpec,
        pg_collection: ProcessGroupCollection,
    ) -> None:
        super().__init__(config=config)
        self.tp_group = pg_collection.tp
        self.decoder = TransformerBlock(
            config, layer_spec, post_process=False, pg_collection=pg_collection
        )

    def forward(
        self, hidden_states: torch.Tensor, packed_seq_params: PackedSeqParams | None = None
    ) -> torch.Tensor:
        """Hidden states ``[S, B, H]`` to features ``[B, S, H]``."""
        features = self.decoder(
            hidden_states, attention_mask=None, packed_seq_params=packed_seq_params
        )
        return features.transpose(0, 1)  # type: ignore[no-any-return]


class _Radio(MegatronModule):  # type: ignore[misc]
    """What both resolutions share. Their parameters have the same names and shapes.

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
        self.last_stage = pg_collection.pp.rank() == pg_collection.pp.size() - 1
        if pg_collection.pp.rank() > 0:
            self.vit = LaterStage(config, layer_spec, pg_collection)
            return
        # Dynamic resolution does not read it.
        side = options.image_side if options.resolution == "fixed" else options.max_image_size
        self.vit = RADIOViTModel(
            config,
            layer_spec,
            add_class_token=options.class_tokens > 0,
            class_token_len=options.class_tokens,
            patch_dim=options.patch_size,
            img_h=side,
            img_w=side,
            max_img_h=options.max_image_size,
            max_img_w=options.max_image_size,
            has_cpe=True,
            force_cpe_eval_mode=not options.position_crop,
            dynamic_resolution=options.resolution == "dynamic",
            pg_collection=pg_collection,
        )
        if config.perform_initialization:
            self._scale_embedder()

    def _scale_embedder(self) -> None:
        """Make embedded patches of unit variance.

        RADIOViTModel draws the embedder's weights with variance 1, which gives patches a variance
        of 3 * patch_size**2 and drowns the position embeddings (variance 1 / hidden_size).
        """
        weight = self.vit.embedder.weight
        with torch.no_grad():
            weight.mul_(weight.shape[1] ** -0.5)

    def _in_precision(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels in the precision in which the first stage embeds them."""
        return pixels.to(self.vit.position_embeddings.dtype)

    def _rows(self, features: torch.Tensor, columns: int) -> torch.Tensor:
        """Rows ``[N, width]`` of pictures of one size.

        Args:
            features: ``[B, class tokens + patches, H]``.
            columns: Patches side by side.
        """
        if not self.options.keep_class_tokens:
            features = features[:, self.options.class_tokens :]
        if self.options.pixel_shuffle:
            features = pixel_shuffle(features, columns)
        return features.flatten(0, 1)


class SquareTower(_Radio):
    """Pictures of one size to rows of features, picture after picture."""

    def forward(
        self, images: torch.Tensor | None = None, hidden_states: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Rows of ``B`` pictures.

        Args:
            images: On the first stage ``[B, 3, image_size, image_size]``, normalised, of any float
                type.
            hidden_states: On later stages ``[class tokens + patches, B, H]``.

        Returns:
            ``[N, width]`` in the model's precision, ``N`` = ``B`` times the positions of a
            picture: its class tokens if they are kept, then its patches in reading order. Before
            the last stage, hidden states.
        """
        if images is not None:
            features = self.vit(self._in_precision(images))
        else:
            features = self.vit(hidden_states)
        if not self.last_stage:
            return features.transpose(0, 1).contiguous()  # type: ignore[no-any-return]
        return self._rows(features, columns=self.options.image_side // self.options.patch_size)


class PackedTower(_Radio):
    """Pictures of any sizes, packed, to rows of features; each picture attends to itself."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        any_shape = self.options.flash_attention and self.config.bf16
        self._shapes = EvenShapes(often=1, most=math.inf) if any_shape else EvenShapes()
        self.vit.decoder.register_forward_pre_hook(_send_bounds, with_kwargs=True)

    def forward(
        self,
        sizes: Sequence[Size],
        patches: torch.Tensor | None = None,
        hidden_states: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Rows of ``B`` pictures.

        Args:
            sizes: Height and width of each picture in pixels.
            patches: On the first stage ``[N, 3 * patch_size**2]``, normalised, of any float type.
            hidden_states: On later stages ``[N + B * class tokens, 1, H]``.

        Returns:
            ``[N', width]`` in the model's precision, ``N'`` the positions of all pictures: of each
            its class tokens if they are kept, then its patches in reading order. Before the last
            stage, hidden states.
        """
        class_tokens = self.options.class_tokens
        grids = self._grids(sizes)
        lengths = [rows * columns for rows, columns in grids]
        even = self._shapes.take(lengths)
        if patches is not None:
            # Adds the class tokens of each picture, to its bounds in the parameters too.
            embedded = self._in_precision(patches[None])
            features = self.vit(embedded, imgs_sizes=sizes, packed_seq_params=packed(lengths, even))
        else:
            longer = [each + class_tokens for each in lengths]
            features = self.vit(hidden_states, packed(longer, even))
        if not self.last_stage:
            return features.transpose(0, 1).contiguous()  # type: ignore[no-any-return]
        pictures = features.split([length + class_tokens for length in lengths], dim=1)
        return torch.cat(
            [
                self._rows(picture, columns)
                for picture, (_, columns) in zip(pictures, grids, strict=True)
            ]
        )

    def settled(self, sizes: Sequence[Size], **_: Any) -> bool:
        """Whether pictures of these sizes are computed from now on as they would be now, so that
        a CUDA graph of it may be kept."""
        return self._shapes.settled([rows * columns for rows, columns in self._grids(sizes)])

    def _grids(self, sizes: Sequence[Size]) -> list[tuple[int, int]]:
        """Rows and columns of patches of each picture."""
        side = self.options.patch_size
        return [(height // side, width // side) for height, width in sizes]


def packed(lengths: Sequence[int], even: bool) -> Pictures:
    """Bounds of pictures of so many positions, on the host: core adds class tokens to them, for
    which it would wait for a device."""
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    return Pictures(
        even=even,
        qkv_format="thd",
        cu_seqlens_q=bounds,
        cu_seqlens_kv=bounds,
        max_seqlen_q=max(lengths),
        max_seqlen_kv=max(lengths),
    )


def _send_bounds(_block: Any, given: tuple[torch.Tensor], named: dict[str, Any]) -> None:
    """Before the layers: bounds go where the hidden states are."""
    parameters = named["packed_seq_params"]
    bounds, (states, *_) = parameters.cu_seqlens_q, given
    if states.is_cuda and torch.cuda.is_current_stream_capturing():
        bounds = written(bounds, states.device)
    else:
        bounds = bounds.to(states.device, non_blocking=True)
    parameters.cu_seqlens_q = parameters.cu_seqlens_kv = bounds


def written(bounds: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The same bounds on a device, number by number: a CUDA graph holds what each kernel was
    given, and no copy from the host's memory."""
    there = torch.empty_like(bounds, device=device)
    for place, bound in zip(there, bounds.tolist(), strict=True):
        place.fill_(bound)
    return there


def pixel_shuffle(features: torch.Tensor, columns: int) -> torch.Tensor:
    """Join each 2x2 square of patches into one position.

    Args:
        features: ``[B, rows * columns, H]``, patches in reading order.
        columns: Patches side by side.

    Returns:
        ``[B, rows/2 * columns/2, 4H]``: squares in reading order; in each, the features of the
        upper left, upper right, lower left and lower right patch.
    """
    return rearrange(
        features,
        "b (row down column right) h -> b (row column) (down right h)",
        down=2,
        right=2,
        column=columns // 2,
    )
