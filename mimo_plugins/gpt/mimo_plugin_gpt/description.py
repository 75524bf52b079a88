"""The model in numbers, without torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mimo_core import MimoError, ModuleConfig, ModuleDescription, ParameterSpec
from mimo_plugin_gpt import owned
from mimo_plugin_gpt.config_json import notes
from mimo_plugin_gpt.options import Options
from mimo_plugin_gpt.shape import Shape

_WHOLE: frozenset[str] = frozenset()
_TP = frozenset({"tp"})
_EXPERTS = frozenset({"ep", "etp"})


def describe(module: ModuleConfig) -> ModuleDescription:
    """Widths, parameters of the whole model."""
    options: Options = module.options
    shape = options.shape
    rows = embedding_rows(module)
    if shape.tie_embeddings and module.grid.pp > 1:
        raise MimoError(
            f"modules.{module.name}: tie_embeddings with pp {module.grid.pp} cannot be saved by "
            "megatron-core 0.19 (LanguageModule.tie_embeddings_and_output_weights_state_dict reads "
            "global groups that a run of several grids has not); set pp to 1, or "
            "tie_embeddings=false for a model that begins fresh",
            code="recipe.conflict",
            module=module.name,
            keys=("options.tie_embeddings", "grid.pp"),
            pp=module.grid.pp,
        )
    return ModuleDescription(
        hidden_size=shape.hidden_size,
        num_layers=shape.layers,
        num_attention_heads=shape.attention_heads,
        num_experts=shape.experts,
        parameters=tuple(_weights(shape, rows)),
        supported_parallelism=frozenset(
            {"tp", "cp", "pp", "dp"} | (_EXPERTS if shape.experts else _WHOLE)
        ),
        divisibility=tuple(_divides(shape, rows)),
        supports_packing=True,
        vocab_size=rows,
        owned_config_fields=owned.FIELDS,
        graphable_layers=frozenset({"attn"}),  # its layers as a whole
        notes=tuple(notes(Path(options.like))) if options.like is not None else (),
    )


def shape_of(module: ModuleConfig) -> Shape:
    """All sizes of the module's model."""
    options: Options = module.options
    return options.shape


def embedding_rows(module: ModuleConfig) -> int:
    """Rows of the module's embedding.

    Raises:
        MimoError: the module has no vocabulary: it is not the language model.
    """
    if module.vocabulary_size is None:
        raise MimoError(
            f"module {module.name!r} has no vocabulary: plugin {module.plugin!r} makes a language "
            "model, so use it for the module named 'language'",
            code="recipe.not-an-encoder",
            module=module.name,
            plugin=module.plugin,
        )
    options: Options = module.options
    return options.embedding_rows(module.vocabulary_size)


def _weights(shape: Shape, rows: int) -> Iterator[ParameterSpec]:
    """All parameters as they lie: the embedding on the first stage, an equal share of the layers on
    each, the final norm and the output layer on the last."""
    hidden = shape.hidden_size
    yield ParameterSpec(
        component="language", layer="first", sharded_over=_TP, num_parameters=rows * hidden
    )
    for layer in range(shape.layers):
        for split, parameters in _layer(shape).items():
            yield ParameterSpec(
                component="language", layer=layer, sharded_over=split, num_parameters=parameters
            )
    yield ParameterSpec(
        component="language", layer="last", sharded_over=_WHOLE, num_parameters=hidden
    )
    if not shape.tie_embeddings:
        yield ParameterSpec(
            component="language", layer="last", sharded_over=_TP, num_parameters=rows * hidden
        )


def _layer(shape: Shape) -> dict[frozenset[str], int]:
    """Parameters of one layer, by the grid sizes over which they are divided."""
    hidden = shape.hidden_size
    norms = 2 * hidden + (2 * shape.head_dim if shape.qk_norm else 0)
    attention = hidden * attention_columns(shape)
    if shape.qkv_bias:
        attention += shape.query_width + 2 * shape.kv_width
    if shape.experts:
        router = shape.experts * hidden
        routed = 3 * hidden * shape.expert_ffn_hidden_size * shape.experts
        return {_WHOLE: norms + router, _TP: attention, _EXPERTS: routed}
    return {_WHOLE: norms, _TP: attention + 3 * hidden * shape.ffn_hidden_size}


def attention_columns(shape: Shape) -> int:
    """Width of queries, keys, values and attention output together."""
    return 2 * (shape.query_width + shape.kv_width)


def _divides(shape: Shape, rows: int) -> Iterator[tuple[str, int, str]]:
    yield "layers", shape.layers, "pp"
    yield "rows of the embedding", rows, "tp"
    yield "attention heads", shape.attention_heads, "tp"
    yield "key and value heads", shape.kv_heads, "tp"
    if shape.experts:
        yield "experts", shape.experts, "ep"
        yield "expert width", shape.expert_ffn_hidden_size, "etp"
    else:
        yield "MLP width", shape.ffn_hidden_size, "tp"
