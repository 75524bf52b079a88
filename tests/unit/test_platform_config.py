"""Which of a recipe's fields a machine reads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mimo_core import Grid, ModuleConfig, TrainingConfig
from mimo_core.checkpoint import compatibility
from mimo_core.model import platform_config
from mimo_core.model.platform_config import drop_unsupported_fields, notes
from mimo_core.testing import raises_code

GRAPHS = {"cuda_graph_impl": "local", "cuda_graph_modules": ["mamba"]}
FUSED = {"moe_permute_fusion": True}
LOSS = {"cross_entropy_loss_fusion": True, "cross_entropy_fusion_impl": "te"}
PLAIN = {"layernorm_epsilon": 1e-6, "moe_router_fusion": False}
CPU, BARE, WHOLE = (
    SimpleNamespace(name=name, transformer_engine=te)
    for name, te in (("cpu", False), ("cuda", False), ("cuda", True))
)
TRAIN = TrainingConfig(
    iterations=1, micro_batch_size=1, global_batch_size=1, sequence_length=8, learning_rate=1.0
)


def make(fields: dict[str, Any]) -> ModuleConfig:
    return ModuleConfig(name="vision", plugin="eye", grid=Grid(), train=TRAIN, megatron=fields)


@pytest.mark.parametrize(
    ("platform", "fields", "read"),
    [
        (WHOLE, {**GRAPHS, **FUSED, **LOSS, **PLAIN}, {**GRAPHS, **FUSED, **LOSS, **PLAIN}),
        (BARE, {**GRAPHS, **FUSED, **LOSS, **PLAIN}, {**GRAPHS, **PLAIN}),
        (CPU, {**GRAPHS, **FUSED, **LOSS, **PLAIN}, PLAIN),
        (CPU, {"cuda_graph_impl": "none"}, {"cuda_graph_impl": "none"}),
        (CPU, {"attention_backend": "flash"}, {}),
        (CPU, {"recompute_modules": None}, {"recompute_modules": None}),
        (CPU, {"attention_backend": "unfused"}, {"attention_backend": "unfused"}),
        (CPU, {"cpu_offloading": True, "cpu_offloading_num_layers": 1}, {}),
        (CPU, {"use_mamba_mem_eff_path": False}, {}),
        (BARE, {"use_mamba_mem_eff_path": False}, {"use_mamba_mem_eff_path": False}),
        # Core's own fusion runs everywhere.
        (CPU, {"cross_entropy_loss_fusion": True}, {"cross_entropy_loss_fusion": True}),
    ],
)
def test_a_machine_reads_what_it_can_do(platform: Any, fields: Any, read: Any) -> None:
    module = make(fields)
    assert drop_unsupported_fields(module, platform).megatron == read
    told = list(notes(SimpleNamespace(modules={"vision": module}), platform))  # type: ignore[arg-type]
    assert len(told) == (fields != read)


def test_the_note_names_modules_fields_and_machine() -> None:
    modules = {"vision": make(FUSED), "sound": make(FUSED), "language": make(FUSED | GRAPHS)}
    graph: Any = SimpleNamespace(modules=modules)
    alike = "vision, sound: moe_permute_fusion is not read on CPUs"
    more = "cuda_graph_impl, cuda_graph_modules, moe_permute_fusion are not read on CPUs"
    assert list(notes(graph, CPU)) == [alike, f"language: {more}"]
    without = "vision, sound, language: moe_permute_fusion is not read without TransformerEngine"
    assert list(notes(graph, BARE)) == [without]


def test_norms_are_recomputed_with_transformer_engine_only() -> None:
    module = make({"recompute_granularity": "selective", "recompute_modules": ["layernorm"]})
    assert drop_unsupported_fields(module, WHOLE) is module  # type: ignore[arg-type]
    with raises_code("megatron.recomputation", module="vision", value="layernorm") as caught:
        drop_unsupported_fields(module, CPU)  # type: ignore[arg-type]
    assert caught.value.text.startswith("modules.vision.megatron.recompute_modules: ")


def test_what_a_machine_does_not_read_is_no_part_of_the_model() -> None:
    """So that a run goes on with it or without, there and elsewhere."""
    graphs = {"cuda_graph_impl": "local", "cuda_graph_modules": ["mamba"]}
    graphs |= {"cuda_graph_warmup_steps": 2}
    everything = dict.fromkeys((*platform_config._KERNELS, *platform_config._OFFLOADING), True)
    more = {"attention_backend": "flash", "use_mamba_mem_eff_path": False}
    module = make({**everything, **graphs, **LOSS, **more})
    assert drop_unsupported_fields(module, CPU).megatron == {}  # type: ignore[arg-type]
    assert [field for field in module.megatron if not compatibility._how(field)] == []
