"""The dynamic tower's attention where TransformerEngine is."""

from __future__ import annotations

from megatron.core.extensions.transformer_engine import TEDotProductAttention

from mimo_plugin_radio.even import EvenPictures


class PicturesAttention(EvenPictures, TEDotProductAttention):  # type: ignore[misc]
    """TransformerEngine's attention, over packed pictures or a batch of them."""
