"""The recipe's ``options`` of a module that uses this plugin."""

from __future__ import annotations

from typing import Any, Literal

import attrs

LAYERS = {"M": "Mamba2", "*": "attention", "-": "MLP", "E": "mixture of experts"}
"""Characters of a pattern."""

CONVOLUTION_WIDTH = 4
"""Taps of the Mamba2 convolution: fixed in megatron's ``MambaMixer``."""


def _check_pattern(_options: Options, _attribute: Any, pattern: str) -> None:
    known = ", ".join(f"{symbol} ({name})" for symbol, name in LAYERS.items())
    if not pattern:
        raise ValueError(f"pattern is empty: it needs one character a layer, of {known}")
    for position, symbol in enumerate(pattern, start=1):
        if symbol not in LAYERS:
            raise ValueError(
                f"pattern {pattern!r}: character {symbol!r} at position {position} is no layer; "
                f"use {known}"
            )


def _at_least(least: int) -> Any:
    def check(_options: Options, attribute: attrs.Attribute[Any], value: float | None) -> None:
        if value is not None and value < least:
            raise ValueError(f"{attribute.name} is {value}: it must be at least {least}")

    return check


def _check_fraction(_options: Options, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{attribute.name} is {value}: it must be in [0, 1)")


def _positive(_options: Options, attribute: attrs.Attribute[Any], value: float) -> None:
    if not value > 0:
        raise ValueError(f"{attribute.name} is {value}: it must be greater than 0")


_count = _at_least(1)


@attrs.frozen(kw_only=True)
class Options:
    """A hybrid language model; the defaults make one that a laptop trains."""

    pattern: str = attrs.field(default="M*M-", validator=_check_pattern)
    """One character a layer: M Mamba2, * attention, - MLP, E mixture of experts."""
    hidden_size: int = attrs.field(default=64, validator=_count)
    """Width of the residual stream."""

    attention_heads: int = attrs.field(default=4, validator=_count)
    """Query heads of an attention layer."""
    kv_heads: int | None = attrs.field(default=None, validator=_count)
    """Key and value heads; default ``attention_heads``."""
    head_dim: int | None = attrs.field(default=None, validator=_count)
    """Width of an attention head; default ``hidden_size / attention_heads``."""

    ffn_hidden_size: int | None = attrs.field(default=None, validator=_count)
    """Inner width of an MLP layer; default ``4 * hidden_size``."""

    mamba_heads: int | None = attrs.field(default=None, validator=_count)
    """Heads of a Mamba2 layer; default ``2 * hidden_size / mamba_head_dim``."""
    mamba_head_dim: int = attrs.field(default=16, validator=_count)
    """Width of a Mamba2 head."""
    mamba_state: int = attrs.field(default=16, validator=_count)
    """State size of a Mamba2 layer."""
    mamba_groups: int = attrs.field(default=2, validator=_count)
    """Groups of Mamba2 heads that share B and C, and the gated norm."""

    experts: int = attrs.field(default=4, validator=_count)
    """Routed experts of an E layer."""
    experts_per_token: int = attrs.field(default=2, validator=_count)
    """Experts that each token is sent to."""
    expert_ffn_hidden_size: int | None = attrs.field(default=None, validator=_count)
    """Inner width of a routed expert; default ``ffn_hidden_size``."""
    shared_expert_ffn_hidden_size: int = attrs.field(default=0, validator=_at_least(0))
    """Inner width of the expert that every token passes; 0 for none."""
    router_score: Literal["sigmoid", "softmax"] = attrs.field(
        default="sigmoid", validator=attrs.validators.in_(("sigmoid", "softmax"))
    )
    """Score of a token for an expert."""
    router_bias: bool = False
    """Balance experts by a bias on their scores that follows their load (needs sigmoid)."""
    router_aux_loss: float = attrs.field(default=0.0, validator=_at_least(0))
    """Coefficient of the load-balancing loss."""
    routed_scaling: float = attrs.field(default=1.0, validator=_positive)
    """Factor on the sum of the routed experts' outputs."""

    dropout: float = attrs.field(default=0.0, validator=_check_fraction)
    """Dropout of embeddings, residual branches and attention weights."""
    tie_embeddings: bool = False
    """Use the word embeddings as the output layer's weight."""
    vocabulary_size: int | None = attrs.field(default=None, validator=_count)
    """Rows of the embedding, as a pretrained one has them; default: what the tokenizer needs,
    padded to ``vocabulary_multiple``."""
    vocabulary_multiple: int = attrs.field(default=128, validator=_count)
    """Rows of the embedding are padded to a multiple of this, unless ``vocabulary_size`` says
    them."""
    norm_epsilon: float = attrs.field(default=1e-5, validator=_positive)
    """Epsilon of the RMS norms (the gated norm inside Mamba2 has megatron's fixed 1e-5)."""

    def __attrs_post_init__(self) -> None:
        if "*" in self.pattern:
            if self.head_dim is None:
                _check_divides(self, "hidden_size", "attention_heads", "or give head_dim")
            if self.kv_heads is not None:
                _check_divides(self, "attention_heads", "kv_heads")
        if "M" in self.pattern:
            if self.mamba_heads is None and 2 * self.hidden_size % self.mamba_head_dim:
                raise ValueError(
                    f"mamba_head_dim ({self.mamba_head_dim}) must divide twice hidden_size "
                    f"({2 * self.hidden_size}), or give mamba_heads"
                )
            if self.mamba_head_count % self.mamba_groups:
                raise ValueError(
                    f"mamba_groups ({self.mamba_groups}) must divide the Mamba2 heads "
                    f"({self.mamba_head_count})"
                )
        if "E" in self.pattern:
            self._check_router()

    def _check_router(self) -> None:
        if self.experts_per_token > self.experts:
            raise ValueError(
                f"experts_per_token ({self.experts_per_token}) exceeds experts ({self.experts})"
            )
        if self.router_bias and self.router_score != "sigmoid":
            raise ValueError("router_bias needs router_score: sigmoid")

    # Widths with their defaults filled in.
    @property
    def kv_head_count(self) -> int:
        return self.kv_heads or self.attention_heads

    @property
    def attention_head_dim(self) -> int:
        return self.head_dim or self.hidden_size // self.attention_heads

    @property
    def mlp_width(self) -> int:
        return self.ffn_hidden_size or 4 * self.hidden_size

    @property
    def expert_width(self) -> int:
        return self.expert_ffn_hidden_size or self.mlp_width

    @property
    def mamba_head_count(self) -> int:
        return self.mamba_heads or 2 * self.hidden_size // self.mamba_head_dim

    def embedding_rows(self, needed: int) -> int:
        """Rows of the embedding of a model whose tokenizer has ``needed`` ids."""
        padded = -(-needed // self.vocabulary_multiple) * self.vocabulary_multiple
        return self.vocabulary_size or padded


def _check_divides(options: Options, whole: str, part: str, way_out: str = "") -> None:
    whole_value, part_value = getattr(options, whole), getattr(options, part)
    if whole_value % part_value:
        message = f"{part} ({part_value}) must divide {whole} ({whole_value})"
        raise ValueError(f"{message}, {way_out}" if way_out else message)
