"""The tower: transformers' module as it is, in Megatron's terms."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import attrs
import torch
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer import TransformerConfig
from megatron.core.transformer.module import MegatronModule
from megatron.core.utils import make_sharded_tensor_for_checkpoint
from transformers import CONFIG_MAPPING, AutoModel, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from mimo_core import MimoError
from mimo_plugin_hf_vision.architecture import Architecture
from mimo_plugin_hf_vision.options import Options
from mimo_plugin_hf_vision.preprocessing import Size

_OUTPUTS = {"return_dict": True, "output_attentions": False, "output_hidden_states": False}
"""Keys of a file that decide what a forward returns; here the plugin decides it."""
_KERNELS = frozenset(
    prefix + key
    for prefix in ("", "_")
    for key in ("attn_implementation", "experts_implementation")
)
"""Keys of a file that name kernels, for which transformers may download code from the Hub and run
it; here the recipe names them."""


class Tower(MegatronModule):  # type: ignore[misc]
    """Pictures of one size to rows of features, picture after picture.

    Checkpoints have the names of the model's files, whatever transformers calls its modules in
    memory. Parameters that the rows do not depend on (a pooling head, a norm behind the selected
    layer) do not learn: no gradient reaches them, and weight decay alone would shrink them.

    Args:
        config: The module's config.
        architecture: What the model's files say of the tower.
        options: The module's options.
        size: Height and width of the pictures.
        pg_collection: Process groups of the module on this rank.

    Raises:
        MimoError: transformers has no such model, or it gives other rows than were declared.
    """

    def __init__(
        self,
        config: TransformerConfig,
        architecture: Architecture,
        options: Options,
        size: Size,
        pg_collection: ProcessGroupCollection,
    ) -> None:
        super().__init__(config=config)
        self.tp_group = pg_collection.tp
        self.model = _model(architecture, options)
        # Weights are drawn in fp32, so that both precisions begin alike.
        self.model.to(config.params_dtype)
        if options.recompute:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self._reading = Reading(
            select_layer=architecture.select_layer,
            skipped=architecture.class_tokens if architecture.tokens == "patches" else 0,
            interpolated=size != architecture.image_size,
        )
        rows = architecture.patches(size) + architecture.class_tokens - self._reading.skipped
        meta = _model(architecture, options, meta=True)
        try:
            unread = _unread(meta, self._reading, size, rows)
        except (RuntimeError, TypeError) as error:
            raise _refused(architecture, error) from error
        for name in unread:
            self.model.get_parameter(name).requires_grad_(False)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Rows of ``B`` pictures.

        Args:
            pixel_values: ``[B, 3, height, width]``, normalised, of any float type.

        Returns:
            ``[N, width]`` in the model's precision: of each picture its class tokens if they are
            kept, then its patches in reading order.
        """
        pixels = pixel_values.to(next(self.model.parameters()).dtype)
        return self._reading.features(self.model, pixels).flatten(0, 1)

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None
    ) -> dict[str, Any]:
        """Every tensor whole, under its name in files; data-parallel ranks hold copies."""
        names = _names_in_files(self.model)
        return {
            f"{prefix}model.{name}": make_sharded_tensor_for_checkpoint(
                tensor,
                prefix + names[name],
                prepend_offsets=sharded_offsets,
                tp_group=self.tp_group,
                dp_cp_group=(metadata or {}).get("dp_cp_group"),
            )
            for name, tensor in self.model.state_dict(keep_vars=True).items()
        }


@attrs.frozen(kw_only=True)
class Reading:
    """What is read of the model's output."""

    select_layer: int | None
    skipped: int
    """Class and register tokens that are left out."""
    interpolated: bool
    """The pictures have another size than the position embeddings were made for."""

    def features(self, model: PreTrainedModel, pixels: torch.Tensor) -> torch.Tensor:
        """Features ``[B, positions, width]`` of pictures ``[B, 3, height, width]``."""
        wanted: dict[str, Any] = {}
        name = "interpolate_pos_encoding"
        if self.interpolated and name in inspect.signature(model.forward).parameters:
            wanted[name] = True
        if self.select_layer is None:
            features = model(pixel_values=pixels, **wanted).last_hidden_state
        else:
            output = model(pixel_values=pixels, output_hidden_states=True, **wanted)
            features = output.hidden_states[self.select_layer]
        return features[:, self.skipped :]  # type: ignore[no-any-return]


def _model(found: Architecture, options: Options, *, meta: bool = False) -> PreTrainedModel:
    """The model with fresh weights, or (meta) without any."""
    if found.model_type not in CONFIG_MAPPING:
        raise MimoError(
            f"{found.directory}: this transformers has no model_type {found.model_type!r}; install "
            "a newer one. Code that comes with a model's files is not run",
            code="hf-vision.unsupported-model",
            file=str(found.directory / "config.json"),
            model_type=found.model_type,
        )
    given = {} if options.attention is None else {"attn_implementation": options.attention}
    try:
        said = {key: value for key, value in found.said.items() if key not in _KERNELS}
        config = CONFIG_MAPPING[found.model_type].from_dict({**said, **_OUTPUTS})
        with torch.device("meta") if meta else nullcontext():
            return AutoModel.from_config(config, dtype=torch.float32, **given)  # type: ignore[no-any-return]
    except Exception as error:  # whatever a value of the file leads to
        raise _refused(found, error) from error


def _refused(found: Architecture, error: Exception) -> MimoError:
    """transformers' own words, which name the key where it looks at keys."""
    said = " ".join(f"{type(error).__name__}: {error}".split())
    return MimoError(
        f"transformers cannot build the tower of {found.directory / 'config.json'} (model_type "
        f"{found.model_type!r}): {said}",
        code="hf-vision.unsupported-model",
        file=str(found.directory / "config.json"),
        model_type=found.model_type,
    )


@torch.enable_grad()  # type: ignore[untyped-decorator]
def _unread(model: PreTrainedModel, reading: Reading, size: Size, rows: int) -> list[str]:
    """Names of the parameters that the features do not depend on, seen without computing them.

    Args:
        model: On the meta device.
        rows: What the description says of one picture.
    """
    features = reading.features(model, torch.empty(1, 3, *size, device="meta"))
    if list(features.shape) != [1, rows, model.config.hidden_size]:
        raise MimoError(
            f"{type(model).__name__} makes {list(features.shape)} of a picture of {list(size)} "
            f"where {[1, rows, model.config.hidden_size]} were expected; the option class_tokens "
            "says how many tokens are no patches",
            code="hf-vision.other-positions",
            found=tuple(features.shape),
            expected=(1, rows, model.config.hidden_size),
            image=tuple(size),
        )
    parameters: Mapping[str, torch.Tensor] = dict(model.named_parameters())
    gradients = torch.autograd.grad(features.sum(), list(parameters.values()), allow_unused=True)
    return [name for name, grad in zip(parameters, gradients, strict=True) if grad is None]


def _names_in_files(model: PreTrainedModel) -> dict[str, str]:
    """The name that ``save_pretrained`` gives each tensor, where it saves it as it is.

    transformers 5 renames modules in memory between its releases; files keep their names.
    """
    held = model.state_dict(keep_vars=True)
    saved = revert_weight_conversion(model, dict(held))
    names = {id(tensor): name for name, tensor in saved.items()}
    return {name: names.get(id(tensor), name) for name, tensor in held.items()}
