"""Which machine a rank takes this for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from mimo_core.platforms.cuda import CudaPlatform
from mimo_core.platforms.triton.autotuner import TritonTuning

SEES = """
import os, torch
from mimo_core import platforms

# As on a machine with a GPU: what torch finds is what the driver is allowed to show.
torch.cuda.is_available = lambda: os.environ.get("CUDA_VISIBLE_DEVICES") != ""
print(platforms.select().name, torch.cuda.is_available())
"""


def test_ranks_on_cpus_see_no_gpu_of_their_machine() -> None:
    """Optimizers and packages of kernels ask torch themselves, and would use it."""
    environ = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
    told = subprocess.run(
        [sys.executable, "-c", SEES],
        env=environ | {"MIMO_PLATFORM": "cpu"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=True,
    ).stdout
    assert told.split()[-2:] == ["cpu", "False"]


def test_ranks_share_gpus_where_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL refuses two ranks on one GPU of one host."""
    used: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    monkeypatch.setattr(torch.cuda, "Stream", object)
    monkeypatch.setattr(TritonTuning, "install", lambda _self: False)
    for name in ("NCCL_HOSTID", "TRITON_CACHE_AUTOTUNING", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, "")
    with pytest.raises(ValueError, match=r"local rank 2 has no GPU: .* MIMO_SHARE_GPUS=1"):
        CudaPlatform(2, transformer_engine=False)
    monkeypatch.setenv("MIMO_SHARE_GPUS", "1")
    hosts = []
    for local_rank in range(4):
        platform = CudaPlatform(local_rank, transformer_engine=False)
        assert platform.device.index == used[-1] == local_rank % 2
        assert platform.peak_flops("bf16") is None
        assert platform.notes()[-1].startswith("MIMO_SHARE_GPUS: ranks share GPUs")
        hosts.append(os.environ["NCCL_HOSTID"])
    assert len({*hosts}) == 4
