"""What ``modules.NAME.wrappers.lora`` may say."""

from __future__ import annotations

from typing import Literal

import attrs

from mimo_core import ModuleConfig

NAME = "lora"
"""The plugin's word in recipes."""

Part = Literal["encoder", "projector", "language"]


@attrs.frozen(kw_only=True)
class Options:
    """Which linear layers get adapters, and of what size."""

    targets: tuple[str, ...] = attrs.field(validator=attrs.validators.min_len(1))
    """Patterns of names of linear layers, ``*`` for anything: ``decoder.layers.*.linear_qkv``."""
    rank: int = attrs.field(default=8, validator=attrs.validators.ge(1))
    """Rows of A and columns of B: an adapter adds ``alpha / rank * B A`` to a weight."""
    alpha: float = attrs.field(default=16.0, validator=attrs.validators.gt(0))
    """What the adapter's sum is scaled by, times ``1 / rank``."""
    parts: tuple[Part, ...] = ()
    """Parts of the module that are adapted, whose own weights do not learn then; by default its
    ``encoder``, or ``language``."""

    @property
    def scale(self) -> float:
        """Of the product ``B A``."""
        return self.alpha / self.rank


def options_of(module: ModuleConfig) -> Options:
    """The options with which the module is wrapped."""
    options: Options = module.wrappers[NAME]
    return options


def parts_of(module: ModuleConfig) -> tuple[Part, ...]:
    """The parts of the module that are adapted."""
    main: Part = "language" if module.is_language else "encoder"
    return options_of(module).parts or (main,)
