"""The plugin's hooks. Neither torch nor scikit-learn is imported before a dataset is built."""

from __future__ import annotations

from mimo_core import Data, Dataset, Split, hookimpl
from mimo_plugin_digits.options import Options


@hookimpl
def options() -> type:
    """What the recipe's ``data.options`` may say."""
    return Options


@hookimpl
def build_dataset(data: Data, split: Split) -> Dataset:
    """The digits of one split."""
    from mimo_plugin_digits.dataset import Digits

    return Digits(data, split)
