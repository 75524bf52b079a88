"""Packages of GPU kernels: what each is for, and what runs without it. Imports none of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import attrs

REMEDY = "pip install 'mimo-core[gpu]'"


@attrs.frozen
class Kernels:
    """What some packages bring together."""

    what: str
    packages: tuple[tuple[str, str], ...]
    """Module that is imported, and its distribution."""
    instead: str
    """What happens on GPUs without them."""


KERNELS = (
    Kernels(
        "TransformerEngine layers",
        (("transformer_engine.pytorch", "transformer-engine"),),
        "Megatron's local layers run instead, slower",
    ),
    Kernels(
        "Mamba2 kernels",
        (("mamba_ssm", "mamba-ssm"), ("causal_conv1d", "causal-conv1d")),
        "models with Mamba2 layers do not run on GPUs without them",
    ),
)


def notes() -> Iterator[str]:
    """Which kernels ranks on GPUs use, and a line for each that is missing."""
    used = []
    for kernels in KERNELS:
        missing = []
        for module, distribution in kernels.packages:
            if importlib.util.find_spec(module.partition(".")[0]) is None:
                missing.append(distribution)
            else:
                used.append(f"{distribution} {_version(distribution)}".strip())
        if missing:
            yield f"no {kernels.what} ({', '.join(missing)}): {kernels.instead}; {REMEDY}"
    if used:
        yield f"kernels: {', '.join(used)}"


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return ""
