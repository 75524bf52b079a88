"""The tower: megatron-core's RADIO model, from pictures to the language model's rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from megatron.core.models.vision.radio import RADIOViTModel
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec

from mimo_plugin_radio.options import Options
from mimo_plugin_radio.sizes import Size


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

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Rows of ``B`` pictures.

        Args:
            images: ``[B, 3, image_size, image_size]``, normalised, of any float type.

        Returns:
            ``[N, width]`` in the model's precision, ``N`` = ``B`` times the positions of a
            picture: its class tokens if they are kept, then its patches in reading order.
        """
        features = self.vit(images.to(self.vit.position_embeddings.dtype))
        return self._rows(features, columns=images.shape[-1] // self.options.patch_size)


class PackedTower(_Radio):
    """Pictures of any sizes, packed, to rows of features; each picture attends to itself."""

    def forward(
        self, patches: torch.Tensor, sizes: Sequence[Size], cu_seqlens: torch.Tensor
    ) -> torch.Tensor:
        """Rows of ``B`` pictures.

        Args:
            patches: ``[N, 3 * patch_size**2]`` of all pictures, normalised, of any float type.
            sizes: Height and width of each picture in pixels.
            cu_seqlens: Where in ``N`` each picture begins, and the end: int32 ``[B + 1]``.

        Returns:
            ``[N', width]`` in the model's precision, ``N'`` the positions of all pictures: of each
            its class tokens if they are kept, then its patches in reading order.
        """
        side, class_tokens = self.options.patch_size, self.options.class_tokens
        grids = [(height // side, width // side) for height, width in sizes]
        lengths = [rows * columns for rows, columns in grids]
        packed = PackedSeqParams(
            qkv_format="thd",
            cu_seqlens_q=cu_seqlens,
            cu_seqlens_kv=cu_seqlens,
            max_seqlen_q=max(lengths),
            max_seqlen_kv=max(lengths),
        )
        # Adds the class tokens of each picture, to its bounds in `packed` too.
        features = self.vit(
            patches[None].to(self.vit.position_embeddings.dtype),
            imgs_sizes=sizes,
            packed_seq_params=packed,
        )
        pictures = features.split([length + class_tokens for length in lengths], dim=1)
        return torch.cat(
            [
                self._rows(picture, columns)
                for picture, (_, columns) in zip(pictures, grids, strict=True)
            ]
        )


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
