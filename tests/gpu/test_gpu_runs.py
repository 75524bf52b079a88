"""Runs on a machine with a GPU, one of which is enough: ranks share it, with NCCL between them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ..helpers.paths import RECIPES
from ..helpers.runs import Run, command

pytestmark = pytest.mark.gpu

WHOLE_PRODUCTS = {"NVIDIA_TF32_OVERRIDE": "0", "TRITON_F32_DEFAULT": "ieee"}
SHARED = {"MIMO_SHARE_GPUS": "1"}
PLAIN = 'modules.language.options.pattern="*-E*"'
"""Without Mamba layers, whose kernels take minutes to be tuned beside a rank that waits in NCCL."""
MACHINES = 1e-6
"""Relative: fp32 sums in other orders (6e-8 each) in a few layers, four steps after one another."""


def run(
    platform: str, folder: Path, iterations: int, *more: str, recipe: str | Path = "tiny"
) -> Run:
    shown = {"MIMO_PLATFORM": platform, **WHOLE_PRODUCTS, **SHARED}
    plain = [PLAIN] if recipe == "tiny" else []
    end = subprocess.run(
        command(recipe, *plain, f"train.iterations={iterations}", *more, folder=folder),
        env={**os.environ, **shown},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert end.returncode == 0, end.stderr
    return Run(folder=folder, code=end.returncode, screen=end.stdout, errors=end.stderr)


@pytest.mark.parametrize("first", ["cpu", "cuda"])
def test_a_checkpoint_goes_on_on_either_machine(first: str, tmp_path: Path) -> None:
    """Four iterations on one, four more on both."""
    run(first, tmp_path / "first", 4)
    ended = []
    for platform in ("cpu", "cuda"):
        folder = tmp_path / platform
        shutil.copytree(tmp_path / "first", folder)
        ended.append(run(platform, folder, 8))
    on_cpu, on_gpu = ended
    assert [each.summary["platform"] for each in ended] == ["cpu", "cuda"]
    assert len(on_gpu.losses) == 8
    assert on_gpu.losses[4:] == pytest.approx(on_cpu.losses[4:], rel=MACHINES)
    assert on_gpu.norms[4:] == pytest.approx(on_cpu.norms[4:], rel=10 * MACHINES)


@pytest.mark.parametrize(
    "layout",
    [
        (),
        ("modules.vision.grid.dp=2", "modules.language.grid.tp=2"),
        ("modules.language.grid.tp=2", "modules.language.grid.ep=2"),
    ],
)
def test_layouts_train_as_one_rank_does(layout: tuple[str, ...], tmp_path: Path) -> None:
    recipe = str(RECIPES / "tiny.yaml")
    asked = [recipe, PLAIN, *layout, "--run-dir", str(tmp_path)]
    end = subprocess.run(
        [sys.executable, "-m", "mimo_core.cli.mimo", "verify", *asked],
        env={**os.environ, **SHARED},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert end.returncode == 0, end.stdout + end.stderr
    assert "equal: this layout trains as one rank does" in end.stdout


def test_experts_in_one_kernel_train_alike_on_one_rank_and_on_several(tmp_path: Path) -> None:
    """bf16 has them: four iterations on one rank, four more there, with experts on two ranks, and
    with all of tp, dp and ep and reduction beside the backward, as 4gpu has them on more GPUs.
    Numbers of 8 bits in other sums: 2**-9 each, and less in a loss of all tokens."""
    bf16 = "train.precision=bf16"
    run("cuda", tmp_path / "first", 4, bf16, "placement=colocated")
    ended = []
    for name, layout in {
        "one": ("placement=colocated",),
        "two": ("modules.language.grid.dp=2", "modules.language.grid.ep=2"),
        "five": (
            "modules.language.grid={tp: 2, dp: 2, ep: 2}",
            "megatron.overlap_grad_reduce=true",
        ),
    }.items():
        shutil.copytree(tmp_path / "first", tmp_path / name)
        ended.append(run("cuda", tmp_path / name, 8, bf16, *layout))
    alone, *several = ended
    for each in several:
        print(each.losses[4:], alone.losses[4:], each.norms[4:], alone.norms[4:])
        assert each.losses[4:] == pytest.approx(alone.losses[4:], rel=5e-3)
        assert each.norms[4:] == pytest.approx(alone.norms[4:], rel=5e-2)


DYNAMIC = (
    "modules.vision.options={hidden_size: 160, layers: 2, heads: 2, max_image_size: 32, "
    "patch_size: 4, class_tokens: 1, resolution: dynamic, max_positions: 16, min_positions: 2, "
    "projector: mlp}"
)


@pytest.mark.parametrize("layout", ["non_colocated", "colocated"])
@pytest.mark.parametrize("options", [(), (DYNAMIC,)], ids=["fixed", "dynamic"])
def test_a_frozen_tower_is_replayed_to_the_last_bit(
    options: tuple[str, ...], layout: str, tmp_path: Path
) -> None:
    """In training, between steps and in evaluation. The projector alone learns: the language
    model's gradients would be added up in any order."""
    frozen = ("modules.vision.freeze=[encoder]", "modules.language.freeze=[language]")
    simple = (
        'modules.language.options.pattern="*-"',
        "train.precision=bf16",
        f"placement={layout}",
    )
    graphs = "modules.vision.megatron={cuda_graph_impl: local}"
    asked = (*options, *frozen, *simple, "validation.interval=2")
    plain = run("cuda", tmp_path / "plain", 6, *asked)
    replayed = run("cuda", tmp_path / "graphs", 6, *asked, graphs)
    assert replayed.losses == plain.losses
    assert replayed.norms == plain.norms
    assert len(set(plain.losses)) == 6, "it learns"
    assert "captured its tower as CUDA graph 1 of" in replayed.log(0)
    assert "captured its tower" not in plain.log(0)


GATED = """
modules:
  language:
    plugin: gpt
    options: {hidden_size: 64, layers: 2, attention_heads: 4, kv_heads: 2, qk_norm: true,
              experts: 8, experts_per_token: 3, expert_ffn_hidden_size: 32}
data: {plugin: words}
train: {precision: bf16, micro_batch_size: 4, global_batch_size: 16, sequence_length: 16,
        learning_rate: 1.0e-2, log_interval: 1}
validation: {num_samples: 8, num_displayed: 0}
"""


def test_gated_experts_in_one_kernel_train_as_those_on_cpus(
    tmp_path: Path, words_site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four iterations on CPUs, where they are core's, one after another; four more on both.
    Numbers of 8 bits in other sums: 2**-9 each, and less in a loss of all tokens."""
    monkeypatch.setenv("PYTHONPATH", str(words_site), prepend=os.pathsep)
    recipe = tmp_path / "gated.yaml"
    recipe.write_text(GATED)
    run("cpu", tmp_path / "first", 4, recipe=recipe)
    ended = []
    for platform in ("cpu", "cuda"):
        folder = tmp_path / platform
        shutil.copytree(tmp_path / "first", folder)
        ended.append(run(platform, folder, 8, recipe=recipe))
    on_cpu, on_gpu = ended
    assert on_gpu.losses[4:] == pytest.approx(on_cpu.losses[4:], rel=5e-3)
    assert on_gpu.norms[4:] == pytest.approx(on_cpu.norms[4:], rel=5e-2)
