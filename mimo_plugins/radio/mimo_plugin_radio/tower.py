"""The tower: megatron-core's RADIO model, from pictures to the language model's rows."""

from __future__ import annotations

import torch
from einops import rearrange
from megatron.core.models.vision.radio import RADIOViTModel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.spec_utils import ModuleSpec

from mimo_plugin_radio.options import Options


class RadioTower(MegatronModule):
    """Pictures of one size to rows of features, picture after picture.

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
        self.vit = RADIOViTModel(
            config,
            layer_spec,
            add_class_token=options.class_tokens > 0,
            class_token_len=options.class_tokens,
            patch_dim=options.patch_size,
            img_h=options.image_size,
            img_w=options.image_size,
            max_img_h=options.max_image_size,
            max_img_w=options.max_image_size,
            has_cpe=True,
            force_cpe_eval_mode=not options.position_crop,
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

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Rows of ``B`` pictures.

        Args:
            images: ``[B, 3, image_size, image_size]``, normalised, of any float type.

        Returns:
            ``[N, width]`` in the model's precision, ``N`` = ``B`` times the positions of a
            picture: its class tokens if they are kept, then its patches in reading order.
        """
        options = self.options
        features = self.vit(
            images.to(self.vit.position_embeddings.dtype)
        )  # [B, classes+patches, h]
        if not options.keep_class_tokens:
            features = features[:, options.class_tokens :]
        if options.pixel_shuffle:
            features = pixel_shuffle(features, columns=options.image_size // options.patch_size)
        rows: torch.Tensor = features.flatten(0, 1)
        return rows


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
