"""Where ``MambaMixer`` finds its kernels.

megatron-core 0.19 takes them from ``mamba_ssm``, whose Triton kernels run on GPUs only, and looks
for them once, when ``megatron.core.ssm.mamba_mixer`` is imported. On a CPU the pure-torch ones of
``scan`` answer to their names, in this process only.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import types
from typing import Any

from mimo_core.contract import Platform
from mimo_plugin_nemotron import scan

MIXER = "megatron.core.ssm.mamba_mixer"


def provide(platform: Platform) -> None:
    """Make ``MambaMixer`` usable on this platform.

    Raises:
        ImportError: the platform has a GPU, but ``mamba_ssm`` is not installed.
    """
    if platform.name == "cuda":
        if importlib.util.find_spec("mamba_ssm") is None:
            raise ImportError(
                "Mamba2 layers (M in the pattern) need mamba_ssm on a GPU, and it is not "
                "installed: pip install 'mimo-core[gpu]'"
            )
        return
    for name, contents in _modules().items():
        module = types.ModuleType(name, "Stands in for mamba_ssm on a CPU: mimo_plugin_nemotron.")
        module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None, is_package=True)
        module.__path__ = []
        vars(module).update(contents)
        sys.modules[name] = module
    # megatron.training imports the mixer long before any plugin is asked; it then found nothing.
    mixer: Any = sys.modules.get(MIXER)
    if mixer is not None and mixer.RMSNormGated is not scan.GatedRMSNorm:
        importlib.reload(mixer)


def _modules() -> dict[str, dict[str, Any]]:
    """Contents by module name: what ``MambaMixer`` imports."""
    return {
        "mamba_ssm": {},
        "mamba_ssm.ops": {},
        "mamba_ssm.ops.triton": {},
        "mamba_ssm.ops.triton.layernorm_gated": {"RMSNorm": scan.GatedRMSNorm},
        "mamba_ssm.ops.triton.ssd_combined": {
            "mamba_split_conv1d_scan_combined": scan.mamba_split_conv1d_scan_combined,
            "mamba_chunk_scan_combined": scan.mamba_chunk_scan_combined,
        },
    }
