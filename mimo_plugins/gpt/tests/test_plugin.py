from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import attrs
import numpy as np
import pluggy
import pytest
from gpt_modules import FAMILIES, ROWS, SEQUENCE, language_module
from mimo_plugin_gpt import plugin
from mimo_plugin_gpt.options import Options

import mimo_core.plugins.hookspecs
from mimo_core.contract import Grid, TokenBatch
from mimo_core.recipe.megatron_schema import transformer_fields
from mimo_core.testing import raises_code


def test_every_hook_is_one_of_the_host() -> None:
    host = pluggy.PluginManager(mimo_core.plugins.hookspecs.PROJECT)
    host.add_hookspecs(mimo_core.plugins.hookspecs)
    host.register(EntryPoint("gpt", "mimo_plugin_gpt.plugin", "mimo.plugins").load())
    host.check_pending()
    assert host.hook.options_class() is Options
    assert host.hook.rng_prefix(module=language_module()) == "language."


def test_importing_and_describing_take_no_torch() -> None:
    script = (
        "import sys\n"
        "from mimo_plugin_gpt import plugin\n"
        "from gpt_modules import language_module\n"
        "module = language_module(experts=2)\n"
        "plugin.options_class(), plugin.describe_module(module), plugin.param_mappings(module)\n"
        "assert not {'torch', 'megatron', 'numpy'} & set(sys.modules), 'heavy imports'\n"
    )
    subprocess.run(
        [sys.executable, "-c", script], check=True, env={"PYTHONPATH": ":".join(sys.path)}
    )


def test_description() -> None:
    description = plugin.describe_module(language_module(**FAMILIES["qwen3_moe"]))
    assert (description.hidden_size, description.num_layers, description.num_attention_heads) == (
        32,
        2,
        4,
    )
    assert description.num_experts == 4
    assert description.supported_parallelism == {"tp", "cp", "pp", "dp", "ep", "etp"}
    assert set(description.divisibility) == {
        ("layers", 2, "pp"),
        ("rows of the embedding", ROWS, "tp"),
        ("attention heads", 4, "tp"),
        ("key and value heads", 2, "tp"),
        ("experts", 4, "ep"),
        ("expert width", 24, "etp"),
    }
    assert description.vocab_size == ROWS
    assert description.supports_packing
    assert description.graphable_layers == {"attn"}


def test_dense_layers_have_no_experts_to_spread() -> None:
    description = plugin.describe_module(language_module(**FAMILIES["llama"]))
    assert description.num_experts == 0
    assert description.supported_parallelism == {"tp", "cp", "pp", "dp"}
    assert ("MLP width", 48, "tp") in description.divisibility


def test_rows_of_an_embedding_that_begins_fresh() -> None:
    description = plugin.describe_module(language_module(vocabulary_multiple=16))
    assert description.vocab_size == 80


def test_tied_embeddings_are_counted_once() -> None:
    tied, own = (
        plugin.describe_module(language_module(tie_embeddings=tie)) for tie in (True, False)
    )
    assert own.num_parameters - tied.num_parameters == 128 * 64


def test_tied_embeddings_on_stages_are_refused() -> None:
    with raises_code("recipe.conflict", pp=2, keys=("options.tie_embeddings", "grid.pp")):
        plugin.describe_module(language_module(Grid(pp=2), tie_embeddings=True))


def test_owned_fields_are_fields_of_megatron() -> None:
    """A field that core renames or drops would no longer be refused."""
    owned = plugin.describe_module(language_module()).owned_config_fields
    assert owned <= set(transformer_fields())
    assert not owned & {"moe_router_dtype", "moe_grouped_gemm", "recompute_granularity"}


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_flops_are_two_a_weight_that_a_token_meets(family: str) -> None:
    options = FAMILIES[family]
    module = language_module(**options)
    shape, described = module.options.shape, plugin.describe_module(module)
    unused = ROWS * 32 + 5 * 32  # the embedding is looked up, norms are not matrices
    if shape.experts:
        idle = shape.experts - shape.experts_per_token
        unused += 2 * idle * 3 * 32 * shape.expert_ffn_hidden_size
    (told,) = plugin.estimate_flops(module, [SEQUENCE, 1])
    assert told.component == "language"
    assert told.weight_matmul == (SEQUENCE + 1) * 2 * (described.num_parameters - unused)
    # A position looks at itself and at those before it, in its own sample.
    pairs = SEQUENCE * (SEQUENCE + 1) / 2 + 1
    assert told.activation_matmul == pairs * 2 * 2 * shape.layers * shape.query_width


def test_only_the_language_model_has_a_vocabulary() -> None:
    module = attrs.evolve(language_module(), name="vision", vocabulary_size=None)
    with raises_code("recipe.not-an-encoder", module="vision"):
        plugin.describe_module(module)


class Context:
    training = True

    def __init__(self, lengths: list[int] | None = None) -> None:
        self.lengths = lengths

    def build_tokens(self, samples: list[str]) -> TokenBatch:
        ids = np.arange(len(samples) * 4).reshape(-1, 4)
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
