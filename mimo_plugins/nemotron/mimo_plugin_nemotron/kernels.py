"""Where ``MambaMixer`` finds its kernels.

megatron-core 0.19 takes them from ``mamba_ssm``, whose Triton kernels run on GPUs only, and looks
for them once, when ``megatron.core.ssm.mamba_mixer`` is imported. On a CPU the pure-torch ones of
``mixer`` answer to their names, in this process only. Which positions of packed samples a
context-parallel rank holds it asks of TransformerEngine's extension; there the core answers.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import types
from typing import Any

from mimo_core import MimoError, Platform
from mimo_plugin_nemotron import mixer

MIXER = "megatron.core.ssm.mamba_mixer"
SHARING = "megatron.core.ssm.mamba_context_parallel"
PACKAGES = ("mamba_ssm", "causal_conv1d")


def provide(platform: Platform) -> None:
    """Make ``MambaMixer`` usable on this platform.

    Raises:
        MimoError: the platform has a GPU, but ``mamba_ssm`` or ``causal_conv1d``, of which its
            kernel is made, is not installed.
    """
    if platform.name == "cuda":
        missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            raise MimoError(
                "Mamba2 layers (M in the pattern) need mamba_ssm and causal_conv1d on a GPU; not "
                f"installed: {', '.join(missing)}. pip install 'mimo-core[gpu]'",
                code="nemotron.no-kernels",
                missing=tuple(missing),
            )
        return
    for name, contents in _modules().items():
        module = types.ModuleType(name, "Stands in on a CPU: mimo_plugin_nemotron.")
        module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None, is_package=True)
        module.__path__ = []
        vars(module).update(contents)
        sys.modules[name] = module
    # megatron.training imports its mixer long before any plugin is asked; it then found nothing.
    imported: Any = sys.modules.get(MIXER)
    if imported is not None and imported.RMSNormGated is not mixer.GatedRMSNorm:
        importlib.reload(imported)
    sharing: Any = importlib.import_module(SHARING)
    sharing.tex = types.SimpleNamespace(thd_get_partitioned_indices=_own_positions)
    sharing.is_te_min_version = lambda *_args, **_kwargs: True


def _own_positions(bounds: Any, _positions: int, ranks: int, rank: int) -> Any:
    """Stands for ``transformer_engine_torch.thd_get_partitioned_indices``."""
    from mimo_core.building import local_positions

    return local_positions(bounds.diff().tolist(), ranks, rank)


def _modules() -> dict[str, dict[str, Any]]:
    """Contents by module name: what ``MambaMixer`` imports.

    It asks both packages for their version before it lets packed samples in.
    """
    return {
        "causal_conv1d": {"__version__": "1.4.0"},
        "mamba_ssm": {"__version__": "2.3.0"},
        "mamba_ssm.ops": {},
        "mamba_ssm.ops.triton": {},
        "mamba_ssm.ops.triton.layernorm_gated": {"RMSNorm": mixer.GatedRMSNorm},
        "mamba_ssm.ops.triton.ssd_combined": {
            "mamba_split_conv1d_scan_combined": mixer.mamba_split_conv1d_scan_combined,
            "mamba_chunk_scan_combined": mixer.mamba_chunk_scan_combined,
        },
    }
