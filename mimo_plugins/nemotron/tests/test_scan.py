"""The pure-torch Mamba2 operations against the plain recurrence, in float64."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mimo_plugin_nemotron import mixer, scan
from scan_reference import gated_mixer, gated_norm, numbered, recurrence
from torch import Tensor

from mimo_core.testing import raises_code


def scan_inputs(length: int, *, batch: int = 2, heads: int = 4, groups: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    width, state = 3, 5
    return [
        normal(batch, length, heads, width),
        F.softplus(normal(batch, length, heads)),
        -torch.exp(normal(heads)),
        normal(batch, length, groups, state),
        normal(batch, length, groups, state),
    ]


@pytest.mark.parametrize("length", [1, 3, 4, 7, 8, 12, 17])
@pytest.mark.parametrize("chunk", [1, 4, 128])
def test_chunked_scan_is_the_recurrence(length: int, chunk: int) -> None:
    inputs = scan_inputs(length)
    torch.testing.assert_close(scan.chunked_scan(*inputs, chunk=chunk), recurrence(*inputs))


@pytest.mark.parametrize("groups", [1, 4])
def test_any_number_of_groups(groups: int) -> None:
    inputs = scan_inputs(9, groups=groups)
    torch.testing.assert_close(scan.chunked_scan(*inputs, chunk=4), recurrence(*inputs))


@pytest.mark.parametrize("length", [2, 4, 5], ids=["one chunk", "whole chunks", "and a rest"])
def test_gradient_of_every_input(length: int) -> None:
    inputs = [t.requires_grad_() for t in scan_inputs(length, batch=1, heads=2, groups=1)]
    assert torch.autograd.gradcheck(lambda *t: scan.chunked_scan(*t, chunk=2), inputs)


@pytest.mark.parametrize("lengths", [None, [100, 92]], ids=["one sample", "packed"])
def test_float32_loses_its_rounding_only(lengths: list[int] | None) -> None:
    """Steps large and small, whose log decays sum up to thousands: differences of such sums in
    float32 show 4e-5 to 2e-4 of the largest entry. Rounding shows less than 2**-23 times the
    root of the number of summands: 5,760 (batch, positions, width, state) for a decay."""
    segments = None if lengths is None else numbered(lengths).expand(2, -1)
    x, dt, _, b, c = scan_inputs(192)
    dt = F.softplus(6 * torch.randn_like(dt))
    a = -torch.tensor([1.0, 4.0, 9.0, 16.0], dtype=torch.float64)
    factors = torch.randn_like(x)
    told = []
    for dtype in (torch.float32, torch.float64):
        inputs = [t.float().to(dtype).requires_grad_() for t in (x, dt, a, b, c)]
        y = scan.chunked_scan(*inputs, chunk=64, segments=segments)
        (y * factors).sum().backward()
        told.append([y, *(t.grad for t in inputs)])
    for single, double in zip(*told, strict=True):
        assert single is not None and double is not None
        bound = 2**-23 * (2 * 192 * 3 * 5) ** 0.5
        assert (single - double).abs().max() < bound * double.abs().max()


SAMPLES = [[17], [4, 4, 9], [3, 1, 1, 12], [1, 7, 5, 4], [5, 12]]
"""Lengths of samples that make 17 positions."""


@pytest.mark.parametrize("chunk", [1, 4, 7, 128])
def test_every_sample_of_a_sequence_starts_anew(chunk: int) -> None:
    inputs = scan_inputs(17, batch=len(SAMPLES))
    y = scan.chunked_scan(*inputs, chunk=chunk, segments=torch.stack([*map(numbered, SAMPLES)]))
    x, dt, a, b, c = inputs
    for row, lengths in enumerate(SAMPLES):
        parts = zip(*(t[row, None].split(lengths, dim=1) for t in (x, dt, b, c)), strict=True)
        alone = [recurrence(px, pdt, a, pb, pc) for px, pdt, pb, pc in parts]
        torch.testing.assert_close(y[row, None], torch.cat(alone, dim=1))


def test_gradients_stay_within_samples() -> None:
    inputs = [t.requires_grad_() for t in scan_inputs(7, batch=1, heads=2, groups=1)]
    segments = numbered([3, 1, 3])[None]
    assert torch.autograd.gradcheck(
        lambda *t: scan.chunked_scan(*t, chunk=2, segments=segments), inputs
    )
    scan.chunked_scan(*inputs, chunk=2, segments=segments)[:, 4:].sum().backward()
    assert inputs[0].grad is not None
    assert not inputs[0].grad[:, :4].any() and inputs[0].grad[:, 4:].all()


def test_strong_decay_over_a_long_sequence_stays_finite() -> None:
    x, dt, a, b, c = (t.float() for t in scan_inputs(200))
    inputs = [t.requires_grad_() for t in (x, dt, a, b, c)]
    scan.chunked_scan(x, dt * 30, a, b, c, chunk=64).sum().backward()
    assert all(t.grad is not None and t.grad.isfinite().all() for t in inputs)


def test_convolution_is_torch_s_and_looks_back_only() -> None:
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    weight, bias = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    expected = F.conv1d(x.mT, weight[:, None], bias, padding=3, groups=6)[..., :9].mT
    torch.testing.assert_close(scan.causal_convolution(x, weight, bias), expected)


@pytest.mark.parametrize("norm_before_gate", [False, True])
def test_gated_norm_formula(norm_before_gate: bool) -> None:
    x, z = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    norm = mixer.GatedRMSNorm(8, eps=1e-3, group_size=4, norm_before_gate=norm_before_gate)
    torch.nn.init.normal_(norm.weight)
    expected = gated_norm(x, z, norm.weight, eps=1e-3, group=4, norm_before_gate=norm_before_gate)
    torch.testing.assert_close(norm(x, z), expected)


def test_gated_norm_keeps_the_dtype_and_is_a_plain_norm_without_a_gate() -> None:
    x = torch.randn(5, 8)
    norm = mixer.GatedRMSNorm(8)
    torch.testing.assert_close(norm(x), F.rms_norm(x, (8,), eps=1e-5))
    assert norm(x.bfloat16()).dtype is torch.bfloat16


HEADS, WIDTH, GROUPS, STATE, TAPS = 4, 3, 2, 5, 4
INNER = HEADS * WIDTH
CHANNELS = INNER + 2 * GROUPS * STATE


def mixer_inputs(length: int, *, skip_per_feature: bool = False) -> dict[str, Tensor]:
    torch.manual_seed(length)
    double = {"dtype": torch.float64}
    return {
        "zxbcdt": torch.randn(2, length, INNER + CHANNELS + HEADS, **double),
        "conv1d_weight": torch.randn(CHANNELS, TAPS, **double),
        "conv1d_bias": torch.randn(CHANNELS, **double),
        "dt_bias": torch.randn(HEADS, **double),
        "A": -torch.rand(HEADS, **double) - 0.1,
        "D": torch.randn((HEADS, WIDTH) if skip_per_feature else (HEADS,), **double),
    }


def plain_mixer(inputs: dict[str, Tensor], **given: Any) -> Tensor:
    return gated_mixer(inputs, width=WIDTH, groups=GROUPS, **given)


@pytest.mark.parametrize("length", [1, 2, 11, 70])
@pytest.mark.parametrize("skip_per_feature", [False, True])
def test_split_convolution_scan(length: int, skip_per_feature: bool) -> None:
    inputs = mixer_inputs(length, skip_per_feature=skip_per_feature)
    y = mixer.mamba_split_conv1d_scan_combined(
        **inputs,
        chunk_size=128,
        headdim=None if skip_per_feature else WIDTH,
        ngroups=GROUPS,
        norm_before_gate=False,
    )
    torch.testing.assert_close(y, plain_mixer(inputs))


def test_samples_of_a_sequence_are_mixed_as_each_alone() -> None:
    """Convolution and scan, over chunks of 64 that end within samples and at their ends."""
    lengths = [64, 70, 2, 1, 55]
    inputs = mixer_inputs(sum(lengths))
    y = mixer.mamba_split_conv1d_scan_combined(
        **inputs,
        chunk_size=128,
        headdim=WIDTH,
        ngroups=GROUPS,
        norm_before_gate=False,
        seq_idx=numbered(lengths).expand(2, -1),
    )
    torch.testing.assert_close(y, plain_mixer(inputs, lengths=lengths))


@pytest.mark.parametrize(
    ("lengths", "norm"),
    [([4], "norm before gate"), ([5], "gate before norm"), ([1, 3, 1], "no norm")],
    ids=str,
)
def test_gradient_of_every_parameter(lengths: list[int], norm: str) -> None:
    """Of all that lies between the projections, in chunks of two."""
    inputs = mixer_inputs(sum(lengths))
    inputs["zxbcdt"] = inputs["zxbcdt"][:1]
    if norm != "no norm":
        inputs["rmsnorm_weight"] = torch.randn(INNER, dtype=torch.float64)
    given = [t.requires_grad_() for t in inputs.values()]
    assert torch.autograd.gradcheck(
        lambda *t: mixer.mamba_split_conv1d_scan_combined(
            **dict(zip(inputs, t, strict=True)),
            chunk_size=2,
            headdim=WIDTH,
            ngroups=GROUPS,
            norm_before_gate=norm == "norm before gate",
            seq_idx=numbered(lengths)[None] if len(lengths) > 1 else None,
        ),
        given,
    )


def test_step_limits() -> None:
    inputs = mixer_inputs(6)
    y = mixer.mamba_split_conv1d_scan_combined(
        **inputs, chunk_size=4, headdim=WIDTH, ngroups=GROUPS, dt_limit=(0.3, 0.9)
    )
    torch.testing.assert_close(y, plain_mixer(inputs, dt_limit=(0.3, 0.9)))


def test_norm_weight_given() -> None:
    inputs = mixer_inputs(6)
    weight = torch.randn(INNER, dtype=torch.float64)
    y = mixer.mamba_split_conv1d_scan_combined(
        **inputs,
        chunk_size=4,
        headdim=WIDTH,
        ngroups=GROUPS,
        rmsnorm_weight=weight,
        rmsnorm_eps=1e-5,
        norm_before_gate=False,
    )
    gated = plain_mixer(inputs)
    size = INNER // GROUPS
    norm = torch.cat([F.rms_norm(h, (size,), eps=1e-5) for h in gated.split(size, -1)], dim=-1)
    torch.testing.assert_close(y, norm * weight)


def test_bfloat16_in_and_out() -> None:
    inputs = {name: t.float() for name, t in mixer_inputs(8).items()}
    inputs["zxbcdt"] = inputs["zxbcdt"].bfloat16()
    y = mixer.mamba_split_conv1d_scan_combined(
        **inputs, chunk_size=4, headdim=WIDTH, ngroups=GROUPS
    )
    assert y.dtype is torch.bfloat16
    inputs["zxbcdt"] = inputs["zxbcdt"].float()
    expected = plain_mixer(inputs)
    torch.testing.assert_close(y.float(), expected, atol=0.0, rtol=2**-8)


def test_what_a_cpu_cannot_do_is_refused_by_name() -> None:
    with raises_code("nemotron.cpu-scan", arguments=("activation",)):
        mixer.mamba_split_conv1d_scan_combined(
            **mixer_inputs(4), chunk_size=4, headdim=WIDTH, ngroups=GROUPS, activation="relu"
        )
    with pytest.raises(NotImplementedError, match="state cache"):
        mixer.mamba_chunk_scan_combined()


@pytest.mark.parametrize("length", [8, 10], ids=["whole chunks", "and a rest"])
def test_the_mixer_of_transformers(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights in transformers' Mamba2 mixer give the same output and gradients."""
    # Where these are installed, transformers calls their CUDA kernels on CPUs, too.
    for kernels in ("mamba_ssm", "causal_conv1d"):
        monkeypatch.setitem(sys.modules, kernels, None)
    monkeypatch.delitem(sys.modules, "transformers.models.mamba2.modeling_mamba2", raising=False)
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    hidden = INNER // 2
    torch.manual_seed(0)
    config = Mamba2Config(
        hidden_size=hidden,
        num_heads=HEADS,
        head_dim=WIDTH,
        state_size=STATE,
        n_groups=1,
        conv_kernel=TAPS,
        chunk_size=4,
        layer_norm_epsilon=1e-5,
    )
    theirs = Mamba2Mixer(config, layer_idx=0).float()
    torch.nn.init.normal_(theirs.dt_bias)
    torch.nn.init.normal_(theirs.D)
    torch.nn.init.normal_(theirs.norm.weight)
    states = torch.randn(2, length, hidden, requires_grad=True)
    y = mixer.mamba_split_conv1d_scan_combined(
        theirs.in_proj(states),
        theirs.conv1d.weight[:, 0],
        theirs.conv1d.bias,
        theirs.dt_bias,
        -theirs.A_log.exp(),
        D=theirs.D,
        chunk_size=4,
        headdim=WIDTH,
        rmsnorm_weight=theirs.norm.weight,
        rmsnorm_eps=1e-5,
        norm_before_gate=False,
    )
    ours, expected = theirs.out_proj(y), theirs(states)
    torch.testing.assert_close(ours, expected)
    learned = [states, *theirs.parameters()]
    factors = torch.randn_like(ours)
    for own, other in zip(
        *(torch.autograd.grad((given * factors).sum(), learned) for given in (ours, expected)),
        strict=True,
    ):
        # Float32 sums in two orders: up to 1e-6 of the largest entry.
        torch.testing.assert_close(own, other, rtol=0.0, atol=1e-5 * other.abs().max().item())
