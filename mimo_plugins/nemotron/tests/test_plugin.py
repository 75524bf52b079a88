from __future__ import annotations

import attrs
import numpy as np
import pytest
from mimo_plugin_nemotron import plugin
from mimo_plugin_nemotron.options import Options
from nemotron_modules import VOCABULARY, language_module

from mimo_core.contract import TokenBatch
from mimo_core.recipe.megatron_schema import transformer_fields
from mimo_core.testing import raises_code


def test_description() -> None:
    description = plugin.describe_module(language_module())
    assert description.hidden_size == 32
    assert description.num_layers == 4
    assert description.num_attention_heads == 4
    assert description.num_experts == 4
    assert description.supported_parallelism == {"tp", "cp", "pp", "dp", "ep", "etp"}
    assert ("experts", 4, "ep") in description.divisibility
    assert ("key and value heads", 2, "tp") in description.divisibility
    assert ("Mamba2 groups", 2, "tp") in description.divisibility
    assert ("layers", 4, "pp") in description.divisibility
    assert ("rows of the embedding", 208, "tp") in description.divisibility
    assert description.vocab_size == 208
    assert description.supports_packing
    assert description.graphable_layers == {"mamba", "attn", "moe"}


def test_without_experts_there_is_nothing_to_spread_them_over() -> None:
    description = plugin.describe_module(language_module(pattern="M*"))
    assert description.num_experts == 0
    assert description.supported_parallelism == {"tp", "cp", "pp", "dp"}
    assert description.graphable_layers == {"mamba", "attn"}


def test_rows_of_a_pretrained_embedding() -> None:
    description = plugin.describe_module(language_module(vocabulary_size=201))
    assert description.vocab_size == 201
    assert ("rows of the embedding", 201, "tp") in description.divisibility
    padded = plugin.describe_module(language_module())
    assert (
        padded.num_parameters - description.num_parameters
        == 2 * (208 - 201) * description.hidden_size
    )


def test_tied_embeddings_are_counted_once() -> None:
    tied, own = (
        plugin.describe_module(language_module(tie_embeddings=tie)) for tie in (True, False)
    )
    assert own.num_parameters - tied.num_parameters == 208 * 32


def test_owned_fields_are_fields_of_megatron() -> None:
    """A field that core renames or drops would no longer be refused."""
    owned = plugin.describe_module(language_module()).owned_config_fields
    assert owned <= set(transformer_fields())
    assert not owned & {"moe_router_dtype", "moe_grouped_gemm", "recompute_granularity"}


def test_flops_of_a_matrix_model() -> None:
    """Without attention scores and scan, forward FLOPs are two a weight that a token meets."""
    dense = plugin.describe_module(language_module(pattern="--"))
    unused = 208 * 32 + 3 * 32  # the embedding is looked up, norms are not matrices
    (told,) = plugin.estimate_flops(language_module(pattern="--"), [5, 2])
    assert (told.weight_matmul, told.activation_matmul) == (
        7 * 2 * (dense.num_parameters - unused),
        0,
    )


def test_nemotron_3_nano_has_30_billion_parameters() -> None:
    """As published: 23 Mamba2, 23 MoE and 6 attention layers, 31.6 billion parameters."""
    module = attrs.evolve(
        language_module(),
        vocabulary_size=131072,
        options=Options(
            pattern="MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
            hidden_size=2688,
            attention_heads=32,
            kv_heads=2,
            head_dim=128,
            mamba_heads=64,
            mamba_head_dim=64,
            mamba_state=128,
            mamba_groups=8,
            experts=128,
            experts_per_token=6,
            expert_ffn_hidden_size=1856,
            shared_expert_ffn_hidden_size=3712,
            routed_scaling=2.5,
        ),
    )
    assert plugin.describe_module(module).num_parameters == pytest.approx(31.6e9, rel=0.005)


def test_only_the_language_model_has_a_vocabulary() -> None:
    module = attrs.evolve(language_module(), name="vision", vocabulary_size=None)
    with raises_code("recipe.not-an-encoder", module="vision"):
        plugin.describe_module(module)


class Context:
    training = True

    def __init__(self, lengths: list[int] | None = None) -> None:
        self.lengths = lengths

    def build_tokens(self, samples: list[str]) -> TokenBatch:
        ids = np.arange(len(samples) * 4).reshape(-1, 4) % VOCABULARY
        if self.lengths is not None:
            ids = ids.reshape(1, -1)
        return TokenBatch(
            input_ids=ids,
            labels=ids + 1,
            loss_mask=(ids > 1).astype(np.float32),
            position_ids=ids,
            padding_mask=ids > 5,
            lengths=None if self.lengths is None else np.array(self.lengths, dtype=np.int32),
        )


def test_batch() -> None:
    batch = plugin.provide_batch(language_module(), ["one", "two"], Context())  # type: ignore
    assert set(batch) == {"input_ids", "labels", "loss_mask", "position_ids", "padding_mask"}
    assert batch["labels"].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert {str(t.dtype) for t in batch.values()} == {"torch.int64", "torch.float32", "torch.bool"}


def test_packed_batch() -> None:
    batch = plugin.provide_batch(language_module(), ["one", "two"], Context([5, 3]))  # type: ignore
    assert batch["labels"].tolist() == [[1, 2, 3, 4, 5, 6, 7, 8]]
    assert batch["lengths"].tolist() == [5, 3]
    assert str(batch["lengths"].dtype) == "torch.int32"
