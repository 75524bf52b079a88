"""The model that the options make, every size said."""

from __future__ import annotations

from typing import Any

import attrs


def _at_least(least: int) -> Any:
    def check(_shape: Shape, attribute: attrs.Attribute[Any], value: float | None) -> None:
        if value is not None and value < least:
            raise ValueError(f"{attribute.name} is {value}: it must be at least {least}")

    return check


MOST_LAYERS = 10_000
"""The plan counts layer by layer."""


def _layers(_shape: Shape, attribute: attrs.Attribute[Any], value: int) -> None:
    if not 1 <= value <= MOST_LAYERS:
        raise ValueError(f"{attribute.name} is {value}: it must be 1 to {MOST_LAYERS:,}")


def _positive(_shape: Shape, attribute: attrs.Attribute[Any], value: float) -> None:
    if not value > 0:
        raise ValueError(f"{attribute.name} is {value}: it must be greater than 0")


_count = _at_least(1)


@attrs.frozen(kw_only=True)
class Shape:
    """What a set of weights fits: all that is the model itself, and nothing of how it is trained.

    The fields are those of :class:`~mimo_plugin_gpt.options.Options` of the same names.
    """

    hidden_size: int = attrs.field(validator=_count)
    layers: int = attrs.field(validator=_layers)
    attention_heads: int = attrs.field(validator=_count)
    kv_heads: int = attrs.field(validator=_count)
    head_dim: int = attrs.field(validator=_count)
    ffn_hidden_size: int = attrs.field(validator=_count)
    """Of every layer's MLP, or of every expert."""
    norm_epsilon: float = attrs.field(validator=_positive)
    rope_base: float = attrs.field(validator=_positive)
    rope_scaling: float = attrs.field(validator=_count)
    """1 for none."""
    qkv_bias: bool
    qk_norm: bool
    tie_embeddings: bool
    vocabulary_size: int | None = attrs.field(validator=_count)
    """``None``: what the tokenizer needs, padded."""
    experts: int = attrs.field(validator=_at_least(0))
    """0: dense layers, and the fields below say nothing."""
    experts_per_token: int = attrs.field(validator=_count)
    expert_ffn_hidden_size: int = attrs.field(validator=_count)
    router_normalized: bool

    def __attrs_post_init__(self) -> None:
        if self.attention_heads % self.kv_heads:
            raise ValueError(
                f"kv_heads ({self.kv_heads}) must divide attention_heads ({self.attention_heads})"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim is {self.head_dim}: rotary positions turn pairs of features, so it must "
                "be even"
            )
        if self.experts:
            self._check_router()

    def _check_router(self) -> None:
        if self.experts_per_token > self.experts:
            raise ValueError(
                f"experts_per_token ({self.experts_per_token}) exceeds experts ({self.experts})"
            )
        if self.experts_per_token == 1 and self.router_normalized:
            raise ValueError(
                "experts_per_token is 1 and router_normalized is true: the one expert's weight "
                "would be 1 whatever the router says, and the router would never learn; set "
                "router_normalized=false"
            )

    @property
    def query_width(self) -> int:
        """Features of all query heads together."""
        return self.attention_heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Features of all key heads together; of the values too."""
        return self.kv_heads * self.head_dim


def complete(values: dict[str, Any]) -> Shape:
    """The shape with these fields, the others at their defaults.

    Raises:
        ValueError: no model has it.
    """
    known = {name: value for name, value in values.items() if value is not None}
    known = {"hidden_size": 64, "layers": 2, "attention_heads": 4, "experts": 0} | known
    hidden, heads = known["hidden_size"], known["attention_heads"]
    if "head_dim" not in known:
        if heads < 1 or hidden % heads:
            raise ValueError(
                f"attention_heads ({heads}) must divide hidden_size ({hidden}), or give head_dim"
            )
        known["head_dim"] = hidden // heads
    defaults: dict[str, Any] = {
        "kv_heads": heads,
        "ffn_hidden_size": 4 * hidden,
        "norm_epsilon": 1e-5,
        "rope_base": 10000.0,
        "rope_scaling": 1.0,
        "qkv_bias": False,
        "qk_norm": False,
        "tie_embeddings": False,
        "vocabulary_size": None,
        "experts_per_token": 2,
        "expert_ffn_hidden_size": 4 * hidden,
        "router_normalized": True,
    }
    known = defaults | known
    if known["experts"]:
        known["ffn_hidden_size"] = known["expert_ffn_hidden_size"]  # no layer is dense
    return Shape(**known)
