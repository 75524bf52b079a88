"""What a GPU can do at most: the denominator of MFU."""

from __future__ import annotations

import os
import re

from mimo_core.contract import Precision
from mimo_core.utils import environment

_DENSE_BF16 = {
    "GB200": 2500.0,
    "B200": 2250.0,
    "GH200": 989.4,
    "H200 NVL": 835.5,
    "H200": 989.4,
    "H100 NVL": 835.5,
    "H100 PCIe": 756.0,
    "H100": 989.4,
    "A100": 312.0,
    "L40S": 362.05,
    "L40": 181.05,
}
"""TFLOP/s of dense products in bf16 with sums in fp32, by the word in the device's name that
is found first. From NVIDIA's data sheets (H100, H200, GH200, A100, L40S, L40, DGX B200, GB200
NVL72), which give most of them with sparsity: twice as much."""
_SLICE = "MIG"
"""Stands in the name of a part of a GPU."""


def peak_flops(device: str | None, precision: Precision) -> float | None:
    """FLOP/s of a rank at most; ``None`` where it is not known.

    In fp32 it depends on the kernel whether a product is made in TF32 (TransformerEngine's are,
    torch's are not), so nothing is known of it.

    Args:
        device: Name of the rank's GPU; ``None`` on a CPU.
        precision: Of the rank's module.

    Raises:
        MimoError: ``MIMO_PEAK_TFLOPS`` says no number above 0.
    """
    given = environment.peak_flops(os.environ)
    if given is not None or device is None or precision != "bf16" or _SLICE in device:
        return given
    for name, tera in _DENSE_BF16.items():
        if re.search(rf"\b{name}\b", device):
            return tera * 1e12
    return None
