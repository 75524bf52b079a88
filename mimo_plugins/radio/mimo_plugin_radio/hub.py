"""RADIO's weights as Hugging Face names them, and ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from mimo_core import CheckpointTensor, ConstantTensor, ModuleConfig, ParamMapping, ParamMappings
from mimo_plugin_radio import config_json
from mimo_plugin_radio.options import Options, options_of

if TYPE_CHECKING:
    from torch import Tensor

_MODEL = "radio_model.model."
_CONDITIONER = "radio_model.input_conditioner."


def weight_map(module: ModuleConfig) -> ParamMappings:
    """Rules of tower and projector."""
    options = options_of(module)
    assert module.language_width is not None
    return ParamMappings(
        rules=(*_tower(options), *_projector(options, module.language_width)),
        constants=tuple(_constants(options)),
        foreign={
            f"{_MODEL}patch_generator.video_embedder.*": "embeds frames of videos",
            "radio_model.summary_idxs": "which class tokens sum a picture up",
        },
        config_mistakes=partial(config_json.mistakes, options=options),
        config_notes=config_json.notes,
        exported_config=config_json.config_of(options),
        prefix="vision_model.",
    )


def _same(key: str, name: str, *shape: int, layer: int | None = None) -> ParamMapping:
    """One tensor of the tower, the same on both sides."""
    index = () if layer is None else (layer,)
    stored = CheckpointTensor(key=f"vit.{key}", shape=shape, index=index)
    return ParamMapping(component="encoder", tensors=(stored,), files={_MODEL + name: shape})


def _tower(options: Options) -> Iterator[ParamMapping]:
    width, ffn = options.tower_width, options.tower_ffn_width
    grid = (options.max_image_size // options.patch_size) ** 2
    patch = 3 * options.patch_size**2
    yield _same("embedder.weight", "patch_generator.embedder.weight", width, patch)
    yield _same("position_embeddings", "patch_generator.pos_embed", 1, grid, width)
    if options.class_tokens:
        tokens = options.class_tokens
        yield _same("class_token", "patch_generator.cls_token.token", tokens, width)
    for layer in range(options.tower_layers):
        name, key = f"blocks.{layer}.", "decoder.layers."
        for kind in ("weight", "bias"):
            into = (width,) if kind == "weight" else ()
            norms = {"self_attention.linear_qkv": "norm1", "mlp.linear_fc1": "norm2"}
            for ours, theirs in norms.items():
                norm = f"{key}{ours}.layer_norm_{kind}"
                yield _same(norm, f"{name}{theirs}.{kind}", width, layer=layer)
            yield _attention(f"{key}self_attention.linear_qkv.{kind}", layer, kind, into, options)
            linears = {
                ("self_attention.linear_proj", "attn.proj"): (width, *into),
                ("mlp.linear_fc1", "mlp.fc1"): (ffn, *into),
                ("mlp.linear_fc2", "mlp.fc2"): (width, *((ffn,) if into else ())),
            }
            for (ours, theirs), shape in linears.items():
                yield _same(f"{key}{ours}.{kind}", f"{name}{theirs}.{kind}", *shape, layer=layer)


def _attention(
    key: str, layer: int, kind: str, into: tuple[int, ...], options: Options
) -> ParamMapping:
    """Queries, keys and values: in the file all queries first, in Megatron head by head."""
    shape = (3 * options.tower_width, *into)
    heads = options.tower_heads

    def load(files: Sequence[Tensor]) -> Sequence[Tensor]:
        return [files[0].unflatten(0, (3, heads, -1)).transpose(0, 1).flatten(0, 2)]

    def save(stored: Sequence[Tensor]) -> Sequence[Tensor]:
        return [stored[0].unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)]

    return ParamMapping(
        component="encoder",
        tensors=(CheckpointTensor(key=f"vit.{key}", shape=shape, index=(layer,)),),
        files={f"{_MODEL}blocks.{layer}.attn.qkv.{kind}": shape},
        load=load,
        save=save,
    )


def _projector(options: Options, language_width: int) -> Iterator[ParamMapping]:
    width, inner = options.output_width, options.projector_width
    names = {}
    if options.projector_norm == "rms":
        names["norm.weight"] = ("mlp1.0.weight", (width,))
    if options.projector == "affine":
        linears = {"encoder": ("mlp1.1", language_width, width)}
    else:
        linears = {
            "encoder.linear_fc1": ("mlp1.1", inner, width),
            "encoder.linear_fc2": ("mlp1.3", language_width, inner),
        }
    for ours, (theirs, rows, columns) in linears.items():
        names[f"{ours}.weight"] = (f"{theirs}.weight", (rows, columns))
        if options.projector_bias:
            names[f"{ours}.bias"] = (f"{theirs}.bias", (rows,))
    for key, (name, shape) in names.items():
        stored = CheckpointTensor(key=key, shape=shape)
        yield ParamMapping(component="projector", tensors=(stored,), files={name: shape})


def _constants(options: Options) -> Iterator[ConstantTensor]:
    for name in ("mean", "std"):
        values = getattr(options, name)
        yield ConstantTensor(
            name=f"{_CONDITIONER}norm_{name}",
            shape=(3, 1, 1),
            values=values,
            meaning=f"pixels are normalised by the option {name}, which is {list(values)}; set it",
            exported=True,
        )
    for layer in range(options.tower_layers):
        for number in (1, 2):
            yield ConstantTensor(
                name=f"{_MODEL}blocks.{layer}.layer_scale{number}.lambda1",
                shape=(options.tower_width,),
                values=(1.0,),
                meaning="Megatron's layers have no layer scale, so only ones can be read; "
                "multiply them into attn.proj (1) and mlp.fc2 (2)",
            )
