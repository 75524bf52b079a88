"""The model in numbers, without torch."""

from __future__ import annotations

from collections.abc import Iterator

from mimo_core import MimoError, ModuleConfig, ModuleDescription, ParameterSpec
from mimo_plugin_nemotron import owned
from mimo_plugin_nemotron.options import CONVOLUTION_WIDTH, Options

_WHOLE: frozenset[str] = frozenset()
_TP = frozenset({"tp"})
_EXPERTS = frozenset({"ep", "etp"})
_CAPTURED = {"M": "mamba", "*": "attn", "E": "moe"}
"""What a kind of layer is in ``cuda_graph_modules``."""


def describe(module: ModuleConfig) -> ModuleDescription:
    """Widths, parameters of the whole model."""
    options: Options = module.options
    pattern = options.pattern
    vocabulary = embedding_rows(module)
    hidden = options.hidden_size
    if options.tie_embeddings and module.grid.pp > 1:
        raise MimoError(
            f"modules.{module.name}: tie_embeddings with pp {module.grid.pp} cannot be saved by "
            "megatron-core 0.19 (LanguageModule.tie_embeddings_and_output_weights_state_dict reads "
            "global groups that a run of several grids has not); leave tie_embeddings out, or set "
            "pp to 1",
            code="recipe.conflict",
            module=module.name,
            keys=("options.tie_embeddings", "grid.pp"),
            pp=module.grid.pp,
        )
    _check_groups(module)
    parallel = {"tp", "cp", "pp", "dp"}
    if "E" in pattern:
        parallel |= {"ep", "etp"}
    return ModuleDescription(
        hidden_size=hidden,
        num_layers=len(pattern),
        num_attention_heads=options.attention_heads if "*" in pattern else 0,
        num_experts=options.experts if "E" in pattern else 0,
        parameters=tuple(_weights(options, vocabulary)),
        supported_parallelism=frozenset(parallel),
        divisibility=_divides(module, vocabulary),
        supports_packing=True,
        vocab_size=vocabulary,
        owned_config_fields=owned.FIELDS,
        graphable_layers=frozenset(part for kind, part in _CAPTURED.items() if kind in pattern),
    )


def _check_groups(module: ModuleConfig) -> None:
    """Context-parallel ranks share the heads of a Mamba2 layer: whole groups, or parts of one."""
    options: Options = module.options
    groups = options.mamba_groups // module.grid.tp
    cp = module.grid.cp
    if "M" in options.pattern and groups and groups % cp and cp % groups:
        raise MimoError(
            f"modules.{module.name}.grid.cp: {cp} context-parallel ranks cannot share {groups} "
            f"Mamba2 groups (mamba_groups {options.mamba_groups} / tp {module.grid.tp}); let cp "
            "divide that, or be a multiple of it",
            code="layout.does-not-divide",
            module=module.name,
            size="cp",
            value=cp,
            groups=groups,
        )


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


def mamba_widths(options: Options) -> tuple[int, int, int]:
    """(inner width, convolution channels, width of the input projection) of a Mamba2 layer."""
    inner = options.mamba_head_count * options.mamba_head_dim
    channels = inner + 2 * options.mamba_groups * options.mamba_state
    return inner, channels, inner + channels + options.mamba_head_count


def _weights(options: Options, vocabulary: int) -> Iterator[ParameterSpec]:
    """All parameters as they lie: megatron gives every pipeline stage an equal piece of the
    pattern, the first the embedding, the last the output layer and the final norm."""
    hidden = options.hidden_size
    yield ParameterSpec(
        component="language", layer="first", sharded_over=_TP, num_parameters=vocabulary * hidden
    )
    for layer, kind in enumerate(options.pattern):
        for split, parameters in _layer(options, kind).items():
            if parameters:
                yield ParameterSpec(
                    component="language", layer=layer, sharded_over=split, num_parameters=parameters
                )
    yield ParameterSpec(
        component="language", layer="last", sharded_over=_WHOLE, num_parameters=hidden
    )
    if not options.tie_embeddings:
        yield ParameterSpec(
            component="language", layer="last", sharded_over=_TP, num_parameters=vocabulary * hidden
        )


def _layer(options: Options, kind: str) -> dict[frozenset[str], int]:
    """Parameters of one layer, by the grid sizes over which they are divided."""
    hidden = options.hidden_size
    if kind == "M":
        inner, channels, projected = mamba_widths(options)
        per_head = 3 * options.mamba_head_count  # dt_bias, A_log, D
        convolution = channels * (CONVOLUTION_WIDTH + 1)
        gated_norm = inner
        matrices = hidden * projected + inner * hidden
        return {_WHOLE: hidden, _TP: matrices + convolution + per_head + gated_norm}
    if kind == "*":
        return {_WHOLE: hidden, _TP: hidden * attention_columns(options)}
    if kind == "-":
        return {_WHOLE: hidden, _TP: 2 * hidden * options.mlp_width}
    router = options.experts * hidden
    routed = 2 * hidden * options.expert_width * options.experts
    shared = 2 * hidden * options.shared_expert_ffn_hidden_size  # may be none
    return {_WHOLE: hidden + router, _EXPERTS: routed, _TP: shared}


def attention_columns(options: Options) -> int:
    """Width of queries, keys, values and attention output together."""
    return 2 * (options.attention_heads + options.kv_head_count) * options.attention_head_dim


def _divides(module: ModuleConfig, vocabulary: int) -> tuple[tuple[str, int, str], ...]:
    options: Options = module.options
    sizes = [
        ("layers", len(options.pattern), "pp"),
        ("rows of the embedding", vocabulary, "tp"),
    ]
    if "*" in options.pattern:
        sizes += [
            ("attention heads", options.attention_heads, "tp"),
            ("key and value heads", options.kv_head_count, "tp"),
        ]
    if "M" in options.pattern:
        sizes += [
            ("Mamba2 heads", options.mamba_head_count, "tp x cp"),
            ("Mamba2 groups", options.mamba_groups, "tp"),
        ]
    if "-" in options.pattern:
        sizes.append(("MLP width", options.mlp_width, "tp"))
    if "E" in options.pattern:
        sizes += [
            ("experts", options.experts, "ep"),
            ("expert width", options.expert_width, "etp"),
        ]
        if options.shared_expert_ffn_hidden_size:
            shared = options.shared_expert_ffn_hidden_size
            sizes.append(("shared expert width", shared, "tp"))
    return tuple(sizes)
