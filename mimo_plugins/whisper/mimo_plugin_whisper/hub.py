"""Whisper's weights as Hugging Face names them, and ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mimo_core import CheckpointTensor, ModuleConfig, ParamMapping, ParamMappings
from mimo_plugin_whisper import config_json
from mimo_plugin_whisper.extractor import checked_directory
from mimo_plugin_whisper.options import Options, options_of

if TYPE_CHECKING:
    from torch import Tensor


def weight_map(module: ModuleConfig) -> ParamMappings:
    """Rules of tower and projector."""
    options = options_of(module)
    assert module.language_width is not None
    return ParamMappings(
        rules=(*_tower(options), *_projector(options, module.language_width)),
        config_mistakes=partial(config_json.mistakes, options=options),
        config_notes=config_json.notes,
        exported_config=_config(options),
        prefix="audio_tower.",
        locate=partial(checked_directory, options),
    )


def _config(options: Options) -> dict[str, Any]:
    """What transformers needs to know to read an exported encoder."""
    return {
        "model_type": "whisper",
        "architectures": ["WhisperEncoder"],
        "d_model": options.tower_width,
        "encoder_layers": options.tower_layers,
        "encoder_attention_heads": options.tower_heads,
        "encoder_ffn_dim": options.tower_ffn_width,
        "num_mel_bins": options.mel_bins,
        "max_source_positions": options.max_positions,
        "activation_function": "gelu",
        "scale_embedding": False,
    }


def _same(key: str, name: str, *shape: int, layer: int | None = None) -> ParamMapping:
    """One tensor of the tower, the same on both sides."""
    index = () if layer is None else (layer,)
    stored = CheckpointTensor(key=key, shape=shape, index=index)
    return ParamMapping(component="encoder", tensors=(stored,), files={name: shape})


def _tower(options: Options) -> Iterator[ParamMapping]:
    width, ffn = options.tower_width, options.tower_ffn_width
    for name, inputs in (("conv1", options.mel_bins), ("conv2", width)):
        yield _same(f"{name}.weight", f"{name}.weight", width, inputs, 3)
        yield _same(f"{name}.bias", f"{name}.bias", width)
    yield _same("positions", "embed_positions.weight", options.max_positions, width)
    for kind in ("weight", "bias"):
        yield _same(f"transformer.final_layernorm.{kind}", f"layer_norm.{kind}", width)
    for layer in range(options.tower_layers):
        ours, theirs = "transformer.layers.", f"layers.{layer}."
        yield _projections(f"{ours}self_attention.linear_qkv.weight", theirs, layer, options)
        for which in "qv":
            bias = f"self_attn.{which}_proj.bias"
            yield _same(f"{ours}self_attention.{which}_bias", theirs + bias, width, layer=layer)
        for kind in ("weight", "bias"):
            tensors = {
                "self_attention.linear_qkv.layer_norm_": ("self_attn_layer_norm", width, ()),
                "mlp.linear_fc1.layer_norm_": ("final_layer_norm", width, ()),
                "self_attention.linear_proj.": ("self_attn.out_proj", width, (width,)),
                "mlp.linear_fc1.": ("fc1", ffn, (width,)),
                "mlp.linear_fc2.": ("fc2", width, (ffn,)),
            }
            for key, (name, rows, columns) in tensors.items():
                shape = (rows, *(columns if kind == "weight" else ()))
                yield _same(f"{ours}{key}{kind}", f"{theirs}{name}.{kind}", *shape, layer=layer)


def _projections(key: str, name: str, layer: int, options: Options) -> ParamMapping:
    """Queries, keys and values: apart in the file, in Megatron in one tensor, head by head."""
    width, heads = options.tower_width, options.tower_heads

    def load(files: Sequence[Tensor]) -> Sequence[Tensor]:
        import torch

        return [torch.stack([file.unflatten(0, (heads, -1)) for file in files], 1).flatten(0, 2)]

    def save(stored: Sequence[Tensor]) -> Sequence[Tensor]:
        return [part.flatten(0, 1) for part in stored[0].unflatten(0, (heads, 3, -1)).unbind(1)]

    return ParamMapping(
        component="encoder",
        tensors=(CheckpointTensor(key=key, shape=(3 * width, width), index=(layer,)),),
        files={f"{name}self_attn.{which}_proj.weight": (width, width) for which in "qkv"},
        load=load,
        save=save,
    )


def _projector(options: Options, language_width: int) -> Iterator[ParamMapping]:
    width, inner = options.output_width, options.projector_width(language_width)
    if options.projector == "affine":
        linears = {"encoder": ("linear", language_width, width)}
    else:
        linears = {
            "encoder.linear_fc1": ("linear_1", inner, width),
            "encoder.linear_fc2": ("linear_2", language_width, inner),
        }
    for ours, (theirs, rows, columns) in linears.items():
        shapes = {"weight": (rows, columns)}
        if options.projector_bias:
            shapes["bias"] = (rows,)
        for kind, shape in shapes.items():
            stored = CheckpointTensor(key=f"{ours}.{kind}", shape=shape)
            name = f"multi_modal_projector.{theirs}.{kind}"
            yield ParamMapping(component="projector", tensors=(stored,), files={name: shape})
