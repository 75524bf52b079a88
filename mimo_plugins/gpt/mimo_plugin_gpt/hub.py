"""The weights as transformers' files name them, and Megatron."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from mimo_core import CheckpointTensor, ModuleConfig, ParamMapping, ParamMappings
from mimo_plugin_gpt import config_json
from mimo_plugin_gpt.description import embedding_rows, shape_of
from mimo_plugin_gpt.shape import Shape

if TYPE_CHECKING:
    from torch import Tensor

_EXPERT_FILES = {
    "mixtral": ("block_sparse_moe", ("w1", "w3", "w2")),
    "qwen3_moe": ("mlp", ("gate_proj", "up_proj", "down_proj")),
}
"""Where a layer's experts are, and the gate, the other half of the first layer, the second."""


def weight_map(module: ModuleConfig) -> ParamMappings:
    """Rules of the whole model."""
    shape = shape_of(module)
    rows, hidden = embedding_rows(module), shape.hidden_size
    rules = [
        _same("embedding.word_embeddings.weight", "model.embed_tokens.weight", rows, hidden),
        *(rule for layer in range(shape.layers) for rule in _layer(shape, layer)),
        _same("decoder.final_layernorm.weight", "model.norm.weight", hidden),
    ]
    copies: dict[str, tuple[str, str]] = {}
    foreign = {"model.layers.*.rotary_emb.inv_freq": "follows from the option rope_base"}
    if shape.tie_embeddings:
        foreign["lm_head.weight"] = "the output layer has the embedding's weight"
        copies["lm_head.weight"] = (
            "model.embed_tokens.weight",
            "the option tie_embeddings is true; set tie_embeddings=false to begin with both",
        )
    else:
        rules.append(_same("output_layer.weight", "lm_head.weight", rows, hidden))
    return ParamMappings(
        rules=tuple(rules),
        foreign=foreign,
        copies=copies,
        config_mistakes=partial(config_json.mistakes, shape=shape),
        config_notes=config_json.config_notes,
        exported_config=config_json.config_of(shape, rows, module.train.sequence_length),
        prefix="language_model.",
    )


def _same(key: str, name: str, *shape: int, index: tuple[int, ...] = ()) -> ParamMapping:
    """One tensor, the same on both sides."""
    stored = CheckpointTensor(key=key, shape=shape, index=index)
    return ParamMapping(component="language", tensors=(stored,), files={name: shape})


def _layer(shape: Shape, layer: int) -> Iterator[ParamMapping]:
    hidden, at = shape.hidden_size, (layer,)
    ours, theirs = "decoder.layers.", f"model.layers.{layer}."
    attention = f"{ours}self_attention."
    norm = f"{attention}linear_qkv.layer_norm_weight"
    yield _same(norm, f"{theirs}input_layernorm.weight", hidden, index=at)
    yield _qkv(shape, f"{attention}linear_qkv.weight", theirs, "weight", at, hidden)
    if shape.qkv_bias:
        yield _qkv(shape, f"{attention}linear_qkv.bias", theirs, "bias", at)
    if shape.qk_norm:
        for one in "qk":
            name = f"{theirs}self_attn.{one}_norm.weight"
            yield _same(f"{attention}{one}_layernorm.weight", name, shape.head_dim, index=at)
    name = f"{theirs}self_attn.o_proj.weight"
    yield _same(f"{attention}linear_proj.weight", name, hidden, shape.query_width, index=at)
    norm = "pre_mlp_layernorm.weight" if shape.experts else "mlp.linear_fc1.layer_norm_weight"
    yield _same(ours + norm, f"{theirs}post_attention_layernorm.weight", hidden, index=at)
    if shape.experts:
        yield from _experts(shape, layer)
        return
    files = [f"{theirs}mlp.{name}_proj.weight" for name in ("gate", "up", "down")]
    yield from _gated(f"{ours}mlp.", files, shape.ffn_hidden_size, hidden, at)


def _experts(shape: Shape, layer: int) -> Iterator[ParamMapping]:
    where, names = _EXPERT_FILES[config_json.family(shape)]
    ours, theirs = "decoder.layers.mlp.", f"model.layers.{layer}.{where}."
    hidden, width = shape.hidden_size, shape.expert_ffn_hidden_size
    name = f"{theirs}gate.weight"
    yield _same(f"{ours}router.weight", name, shape.experts, hidden, index=(layer,))
    for expert in range(shape.experts):
        files = [f"{theirs}experts.{expert}.{name}.weight" for name in names]
        yield from _gated(f"{ours}experts.experts.", files, width, hidden, (layer, expert))


def _gated(
    ours: str, files: Sequence[str], width: int, hidden: int, index: tuple[int, ...]
) -> Iterator[ParamMapping]:
    """The gate and the other half are one tensor in Megatron, which tp divides each."""
    gate, up, down = files

    def load(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        import torch

        return [torch.cat(list(tensors))]

    def save(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
        return [*tensors[0].chunk(2)]

    stored = CheckpointTensor(
        key=f"{ours}linear_fc1.weight", shape=(2 * width, hidden), index=index
    )
    halves: Mapping[str, tuple[int, ...]] = {gate: (width, hidden), up: (width, hidden)}
    yield ParamMapping(component="language", tensors=(stored,), files=halves, load=load, save=save)
    yield _same(f"{ours}linear_fc2.weight", down, hidden, width, index=index)


def _qkv(
    shape: Shape, key: str, theirs: str, kind: str, index: tuple[int, ...], *columns: int
) -> ParamMapping:
    """Megatron has queries, keys and values of a group of heads side by side."""
    groups = shape.kv_heads
    grouped = (groups, -1, *columns)
    widths = (shape.query_width, shape.kv_width, shape.kv_width)

    def load(files: Sequence[Tensor]) -> Sequence[Tensor]:
        import torch

        return [torch.cat([t.reshape(grouped) for t in files], dim=1).flatten(0, 1)]

    def save(stored: Sequence[Tensor]) -> Sequence[Tensor]:
        parts = [width // groups for width in widths]
        split = stored[0].reshape(grouped).split(parts, dim=1)
        return [t.flatten(0, 1) for t in split]

    files = {
        f"{theirs}self_attn.{one}_proj.{kind}": (width, *columns)
        for one, width in zip("qkv", widths, strict=True)
    }
    stored = CheckpointTensor(key=key, shape=(sum(widths), *columns), index=index)
    return ParamMapping(component="language", tensors=(stored,), files=files, load=load, save=save)
