"""The cross entropy of the language model's logits."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from megatron.core.transformer import TransformerConfig
from packaging.version import Version

from mimo_core.contract import ModuleConfig
from mimo_core.platforms.base import RankPlatform

SOUND = Version("2.20")
"""TransformerEngine's kernel keeps the gradient in float32 until it is stored (its pull requests
3193 and 3273). Older ones round it before; for them megatron-core 0.19 advises against it."""


def fuse_loss(config: TransformerConfig, module: ModuleConfig, platform: RankPlatform) -> None:
    """Have TransformerEngine compute losses, where it is.

    One kernel reads the logits and one writes their gradient; core's operations pass over them a
    dozen times in float32.

    Core's other fusion (``native``) rounds every gradient to bf16, that of float32 models too.

    Args:
        config: Of the language model, which computes its loss by it.
        module: Its recipe's own word on it counts.
        platform: This rank's machine.
    """
    if platform.transformer_engine and _sound() and not _FIELDS & module.megatron.keys():
        config.cross_entropy_loss_fusion = True
        config.cross_entropy_fusion_impl = "te"


_FIELDS = {"cross_entropy_loss_fusion", "cross_entropy_fusion_impl"}


def _sound() -> bool:
    try:
        return Version(version("transformer-engine")) >= SOUND
    except PackageNotFoundError:
        return False
