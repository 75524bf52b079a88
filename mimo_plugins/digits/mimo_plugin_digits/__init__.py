"""scikit-learn's handwritten digits as a dataset of pictures with captions in words.

``Digits`` and its ``Options`` are for other datasets that stand on these pictures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mimo_plugin_digits.options import Options

if TYPE_CHECKING:
    from mimo_plugin_digits.dataset import Digits

__version__ = "0.1.0"
__all__ = ["Digits", "Options"]


def __getattr__(name: str) -> Any:
    # Plugins are listed without numpy and scikit-learn.
    if name == "Digits":
        from mimo_plugin_digits.dataset import Digits

        return Digits
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
