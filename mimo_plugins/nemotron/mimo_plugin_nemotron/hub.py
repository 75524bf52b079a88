"""NemotronH's weights as Hugging Face names them, and Megatron."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from mimo_core import CheckpointTensor, ConstantTensor, ModuleConfig, ParamMapping, ParamMappings
from mimo_plugin_nemotron import config_json
from mimo_plugin_nemotron.description import embedding_rows, mamba_widths
from mimo_plugin_nemotron.options import CONVOLUTION_WIDTH, Options

if TYPE_CHECKING:
    from torch import Tensor

_NORMS = {
    "M": "mixer.in_proj.layer_norm_weight",
    "*": "self_attention.linear_qkv.layer_norm_weight",
    "-": "mlp.linear_fc1.layer_norm_weight",
    "E": "pre_mlp_layernorm.weight",
}
"""Keys of a layer's norm; where TransformerEngine fuses it, local layers are saved so too."""


def weight_map(module: ModuleConfig) -> ParamMappings:
    """Rules of the whole model."""
    options: Options = module.options
    rows, hidden = embedding_rows(module), options.hidden_size
    rules = [
        _same("embedding.word_embeddings.weight", "backbone.embeddings.weight", rows, hidden),
        *(rule for layer in range(len(options.pattern)) for rule in _layer(options, layer)),
        _same("decoder.final_norm.weight", "backbone.norm_f.weight", hidden),
    ]
    foreign = {"mtp.*": "predicts more than the next token"}
    copies: dict[str, tuple[str, str]] = {}
    if options.tie_embeddings:
        foreign["lm_head.weight"] = "the output layer has the embedding's weight"
        copies["lm_head.weight"] = (
            "backbone.embeddings.weight",
            "the option tie_embeddings is true; set tie_embeddings=false to begin with both",
        )
    else:
        rules.append(_same("output_layer.weight", "lm_head.weight", rows, hidden))
    return ParamMappings(
        rules=tuple(rules),
        constants=() if options.router_bias else tuple(_no_router_bias(options)),
        foreign=foreign,
        copies=copies,
        config_mistakes=partial(config_json.mistakes, options=options, rows=rows),
        config_notes=config_json.notes,
        exported_config=config_json.config_of(options, rows, module.train.sequence_length),
        prefix="language_model.",
    )


def _rule(
    keys: dict[str, tuple[int, ...]], files: dict[str, tuple[int, ...]], **conversions: object
) -> ParamMapping:
    stored = tuple(CheckpointTensor(key=key, shape=shape) for key, shape in keys.items())
    return ParamMapping(component="language", tensors=stored, files=files, **conversions)  # type: ignore[arg-type]


def _same(key: str, name: str, *shape: int) -> ParamMapping:
    """One tensor, the same on both sides."""
    return _rule({key: shape}, {name: shape})


def _layer(options: Options, layer: int) -> Iterator[ParamMapping]:
    kind, hidden = options.pattern[layer], options.hidden_size
    ours, theirs = f"decoder.layers.{layer}.", f"backbone.layers.{layer}."
    yield _same(ours + _NORMS[kind], f"{theirs}norm.weight", hidden)
    theirs += "mixer."
    if kind == "M":
        yield from _mamba(options, f"{ours}mixer.", theirs)
    elif kind == "*":
        yield from _attention(options, f"{ours}self_attention.", theirs)
    elif kind == "-":
        yield from _mlp(f"{ours}mlp.", theirs, options.mlp_width, hidden)
    else:
        yield from _experts(options, f"{ours}mlp.", theirs)


def _mamba(options: Options, ours: str, theirs: str) -> Iterator[ParamMapping]:
    hidden, heads = options.hidden_size, options.mamba_head_count
    inner = mamba_widths(options)[0]
    states = options.mamba_groups * options.mamba_state
    for name in ("A_log", "D", "dt_bias"):
        yield _same(ours + name, theirs + name, heads)
    yield _same(f"{ours}norm.weight", f"{theirs}norm.weight", inner)
    yield _same(f"{ours}out_proj.weight", f"{theirs}out_proj.weight", hidden, inner)
    convolved = {"x": inner, "B": states, "C": states}
    pieces = {"z": inner, **convolved, "dt": heads}
    yield _pieces(f"{ours}in_proj.weight", f"{theirs}in_proj.weight", pieces, hidden)
    taps = (1, CONVOLUTION_WIDTH)
    yield _pieces(f"{ours}conv1d.weight", f"{theirs}conv1d.weight", convolved, *taps)
    yield _pieces(f"{ours}conv1d.bias", f"{theirs}conv1d.bias", convolved)


def _pieces(key: str, name: str, pieces: dict[str, int], *columns: int) -> ParamMapping:
    """Rows that Megatron stores apart, because tp divides each of them."""

    def load(files: Sequence[Tensor]) -> Sequence[Tensor]:
        return files[0].split(list(pieces.values()))

    def save(stored: Sequence[Tensor]) -> Sequence[Tensor]:
        import torch

        return [torch.cat(list(stored))]

    return _rule(
        {f"{key}.{piece}": (rows, *columns) for piece, rows in pieces.items()},
        {name: (sum(pieces.values()), *columns)},
        load=load,
        save=save,
    )


def _attention(options: Options, ours: str, theirs: str) -> Iterator[ParamMapping]:
    """Megatron has queries, keys and values of a group of heads side by side."""
    hidden, groups = options.hidden_size, options.kv_head_count
    queries = options.attention_heads * options.attention_head_dim
    values = groups * options.attention_head_dim
    parts = [rows // groups for rows in (queries, values, values)]

    def load(files: Sequence[Tensor]) -> Sequence[Tensor]:
        import torch

        return [torch.cat([t.unflatten(0, (groups, -1)) for t in files], dim=1).flatten(0, 1)]

    def save(stored: Sequence[Tensor]) -> Sequence[Tensor]:
        return [t.flatten(0, 1) for t in stored[0].unflatten(0, (groups, -1)).split(parts, dim=1)]

    yield _rule(
        {f"{ours}linear_qkv.weight": (queries + 2 * values, hidden)},
        {
            f"{theirs}q_proj.weight": (queries, hidden),
            f"{theirs}k_proj.weight": (values, hidden),
            f"{theirs}v_proj.weight": (values, hidden),
        },
        load=load,
        save=save,
    )
    yield _same(f"{ours}linear_proj.weight", f"{theirs}o_proj.weight", hidden, queries)


def _mlp(ours: str, theirs: str, inner: int, hidden: int) -> Iterator[ParamMapping]:
    yield _same(f"{ours}linear_fc1.weight", f"{theirs}up_proj.weight", inner, hidden)
    yield _same(f"{ours}linear_fc2.weight", f"{theirs}down_proj.weight", hidden, inner)


def _experts(options: Options, ours: str, theirs: str) -> Iterator[ParamMapping]:
    hidden, inner = options.hidden_size, options.expert_width
    yield _same(f"{ours}router.weight", f"{theirs}gate.weight", options.experts, hidden)
    if options.router_bias:
        name = f"{theirs}gate.e_score_correction_bias"
        yield _same(f"{ours}router.expert_bias", name, options.experts)
    if options.shared_expert_ffn_hidden_size:
        shared = options.shared_expert_ffn_hidden_size
        yield from _mlp(f"{ours}shared_experts.", f"{theirs}shared_experts.", shared, hidden)
    for expert in range(options.experts):
        linears = {"linear_fc1": ("up", (inner, hidden)), "linear_fc2": ("down", (hidden, inner))}
        for linear, (name, shape) in linears.items():
            key = f"{ours}experts.experts.{linear}.weight"
            stored = CheckpointTensor(key=key, shape=shape, index=(expert,))
            file = f"{theirs}experts.{expert}.{name}_proj.weight"
            yield ParamMapping(component="language", tensors=(stored,), files={file: shape})


def _no_router_bias(options: Options) -> Iterator[ConstantTensor]:
    for layer, kind in enumerate(options.pattern):
        if kind == "E":
            yield ConstantTensor(
                name=f"backbone.layers.{layer}.mixer.gate.e_score_correction_bias",
                shape=(options.experts,),
                values=(0.0,),
                meaning="the option router_bias is off, so only zeros can be read; set "
                "router_bias=true",
                exported=True,
            )
