"""On a GPU: mamba_ssm's Triton kernels and the pure-torch operations, each against float64.

``pytest -s`` shows every difference and the times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mimo_plugin_nemotron import mixer
from scan_reference import gated_mixer, gated_norm, numbered
from torch import Tensor

pytestmark = pytest.mark.gpu

HEADS, WIDTH, GROUPS, STATE, TAPS, CHUNK = 8, 64, 2, 128, 4, 128
INNER = HEADS * WIDTH
CHANNELS = INNER + 2 * GROUPS * STATE
LAYOUTS = {
    "whole chunks": [256],
    "a rest": [300],
    # Samples that end in a chunk, at its end, and one of a single position.
    "packed": [128, 97, 1, 74],
    "packed whole chunks": [100, 28, 128],
}
TOLERANCES = {
    # Everything in float32 but the running sums of decays: a few roundings of 6e-8.
    ("torch", torch.float32): 5e-6,
    # Everything in float32; what comes in is exact, what goes out is rounded to 8 bits (2**-8 at
    # most, 2e-3 on average).
    ("torch", torch.bfloat16): 4e-3,
    # Float32 with full products, but differences of running sums of decays in float32: those sums
    # reach hundreds in a chunk, whose rounding is 1e-5.
    ("triton", torch.float32): 1e-4,
    # Convolution, states and scores are rounded to 8 bits (2e-3) before each product.
    ("triton", torch.bfloat16): 2e-2,
}
"""Largest norm of the difference, relative to the norm of the reference, of the output and of each
gradient. A sample that reads another's state shows 0.1 and more."""
DECAY_FACTOR = {"torch": 1.0, "triton": 5.0}
"""On gradients of A and dt_bias, which add up terms of both signs over all positions."""


@pytest.fixture(scope="module")
def implementations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Both, by name; the Triton kernels compiled to be as exact as they can be.

    In float32 they multiply in TF32 (10 bits), as Triton does where nothing else is said. One tile
    for each kernel, not the fastest of many: these compile in a minute, and give the same each
    time. Kernels compiled otherwise, of this process or of the cache on disk, are not taken.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_F32_DEFAULT", "ieee")
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        patch.setenv("MAMBA_DETERMINISTIC", "1")
        reason = "mamba_ssm is not installed; pip install 'mimo-core[gpu]'"
        combined = pytest.importorskip("mamba_ssm.ops.triton.ssd_combined", reason=reason)
        gated = pytest.importorskip("mamba_ssm.ops.triton.layernorm_gated", reason=reason)
        yield {
            "torch": mixer,
            "triton": SimpleNamespace(
                mamba_split_conv1d_scan_combined=combined.mamba_split_conv1d_scan_combined,
                GatedRMSNorm=gated.RMSNorm,
            ),
        }


def mixer_inputs(length: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """In the types that ``MambaMixer`` gives; step sizes and decays of a trained model's span."""
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(HEADS, generator=generator)

    narrow = {
        "zxbcdt": normal(2, length, INNER + CHANNELS + HEADS),
        "conv1d_weight": normal(CHANNELS, TAPS) / 2,
        "conv1d_bias": normal(CHANNELS) / 10,
        "D": normal(HEADS),
    }
    wide = {"dt_bias": uniform(-8, 1), "A": -uniform(1, 16)}
    inputs = {name: t.to(dtype) for name, t in narrow.items()} | wide
    return {name: t.cuda().requires_grad_() for name, t in inputs.items()}


def differences(
    run: Callable[[dict[str, Tensor]], Tensor],
    reference: Callable[[dict[str, Tensor]], Tensor],
    inputs: dict[str, Tensor],
) -> dict[str, float]:
    """Of the output and of the gradient of each input, against the reference in float64."""
    doubled = {name: t.detach().double().requires_grad_() for name, t in inputs.items()}
    output, expected = run(inputs), reference(doubled)
    factors = torch.randn(output.shape, device=output.device, dtype=output.dtype)
    gradients = torch.autograd.grad(output, [*inputs.values()], factors)
    wanted = torch.autograd.grad(expected, [*doubled.values()], factors.double())
    pairs = {
        "output": (output, expected),
        **dict(zip(inputs, zip(gradients, wanted, strict=True), strict=True)),
    }
    return {
        name: ((own.double() - other).norm() / other.norm()).item()
        for name, (own, other) in pairs.items()
    }


def too_large(found: dict[str, float], name: str, dtype: torch.dtype) -> dict[str, float]:
    print(f"\n{name}, {dtype}: " + ", ".join(f"{what} {d:.1e}" for what, d in found.items()))
    factors = dict.fromkeys(("A", "dt_bias"), DECAY_FACTOR[name])
    limit = TOLERANCES[name, dtype]
    return {what: d for what, d in found.items() if not d < limit * factors.get(what, 1.0)}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("name", "dtype"), TOLERANCES, ids=str)
def test_mixer(implementations: dict[str, Any], name: str, dtype: torch.dtype, layout: str) -> None:
    """Output and gradients, of one sample and of several end to end."""
    lengths = LAYOUTS[layout]
    segments = numbered(lengths).expand(2, -1).contiguous().cuda() if len(lengths) > 1 else None
    found = differences(
        lambda inputs: implementations[name].mamba_split_conv1d_scan_combined(
            **inputs,
            chunk_size=CHUNK,
            headdim=WIDTH,
            ngroups=GROUPS,
            norm_before_gate=False,
            seq_idx=segments,
        ),
        lambda inputs: gated_mixer(inputs, width=WIDTH, groups=GROUPS, lengths=lengths),
        mixer_inputs(sum(lengths), dtype),
    )
    assert too_large(found, name, dtype) == {}


@pytest.mark.parametrize("norm_before_gate", [False, True])
@pytest.mark.parametrize(("name", "dtype"), TOLERANCES, ids=str)
def test_gated_norm(
    implementations: dict[str, Any], name: str, dtype: torch.dtype, norm_before_gate: bool
) -> None:
    group = INNER // GROUPS
    norm = implementations[name].GatedRMSNorm(
        INNER, eps=1e-5, group_size=group, norm_before_gate=norm_before_gate
    )
    given = {"x": torch.randn(2, 300, INNER), "z": torch.randn(2, 300, INNER)}
    inputs = {what: t.to("cuda", dtype).requires_grad_() for what, t in given.items()}
    weight = torch.nn.Parameter(torch.randn(INNER).to("cuda", dtype))
    norm.weight = weight
    found = differences(
        lambda inputs: norm(inputs["x"], inputs["z"]),
        lambda inputs: gated_norm(
            **inputs, eps=1e-5, group=group, norm_before_gate=norm_before_gate
        ),
        inputs | {"weight": weight},
    )
    assert too_large(found, name, dtype) == {}


def test_the_kernels_are_worth_installing(implementations: dict[str, Any]) -> None:
    """One layer of Nemotron 3 Nano on a sequence of 4096, forward and backward."""
    heads, groups, length = 64, 8, 4096
    channels = heads * WIDTH + 2 * groups * STATE
    inputs = {
        "zxbcdt": torch.randn(1, length, heads * WIDTH + channels + heads),
        "conv1d_weight": torch.randn(channels, TAPS) / 2,
        "conv1d_bias": torch.zeros(channels),
        "D": torch.ones(heads),
    }
    inputs = {name: t.to("cuda", torch.bfloat16) for name, t in inputs.items()}
    inputs |= {"dt_bias": torch.full((heads,), -4.0).cuda(), "A": -torch.ones(heads).cuda()}
    for tensor in inputs.values():
        tensor.requires_grad_()
    milliseconds = {
        name: _median_time(
            lambda known=known: (
                known.mamba_split_conv1d_scan_combined(
                    **inputs,
                    chunk_size=CHUNK,
                    headdim=WIDTH,
                    ngroups=groups,
                    norm_before_gate=False,
                )
                .sum()
                .backward()
            )
        )
        for name, known in implementations.items()
    }
    print(f"\nforward and backward: {milliseconds} ms")
    assert milliseconds["triton"] < milliseconds["torch"]


def _median_time(step: Callable[[], None], repeats: int = 10) -> float:
    """Milliseconds, after a few steps to warm up."""
    times = []
    for _ in range(3 + repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return round(sorted(times[3:])[repeats // 2], 2)
