"""The recipe's ``options`` of a module that uses this plugin."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import attrs

from mimo_plugin_gpt import config_json
from mimo_plugin_gpt.shape import Shape, complete

OF_EXPERTS = ("experts_per_token", "expert_ffn_hidden_size", "router_normalized")
"""Options that only a mixture of experts reads, and that say what it is."""


def _check_fraction(_options: Options, attribute: attrs.Attribute[Any], value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{attribute.name} is {value}: it must be in [0, 1)")


def _not_negative(_options: Options, attribute: attrs.Attribute[Any], value: float) -> None:
    if value < 0:
        raise ValueError(f"{attribute.name} is {value}: it must be at least 0")


def _count(_options: Options, attribute: attrs.Attribute[Any], value: int) -> None:
    if value < 1:
        raise ValueError(f"{attribute.name} is {value}: it must be at least 1")


@attrs.frozen(kw_only=True)
class Options:
    """A decoder; without options, one that a laptop trains.

    Down to ``router_normalized``: what is not given is taken from ``like``, and what that has not
    is the default named here. :attr:`shape` has all of them.
    """

    like: str | None = None
    """A directory with the ``config.json`` of a Llama, Mistral, Qwen2, Qwen3, Mixtral or Qwen3-MoE
    model, from the root or from the working directory."""

    hidden_size: int | None = None
    """Width of the residual stream; 64."""
    layers: int | None = None
    """2."""
    attention_heads: int | None = None
    """Query heads; 4."""
    kv_heads: int | None = None
    """Key and value heads; ``attention_heads``."""
    head_dim: int | None = None
    """Width of an attention head; ``hidden_size / attention_heads``."""
    ffn_hidden_size: int | None = None
    """Inner width of the gated MLP of a dense layer; ``4 * hidden_size``."""
    norm_epsilon: float | None = None
    """Epsilon of the RMS norms; 1e-5."""
    rope_base: float | None = None
    """Base of the rotary positions; 10000."""
    rope_scaling: float | None = None
    """Factor by which Llama 3's rule slows the low rotary frequencies; 1, the default, for none."""
    qkv_bias: bool | None = None
    """Queries, keys and values have biases (Qwen2); false."""
    qk_norm: bool | None = None
    """An RMS norm of each head's queries and keys (Qwen3); false."""
    tie_embeddings: bool | None = None
    """Use the word embeddings as the output layer's weight; false."""
    vocabulary_size: int | None = None
    """Rows of the embedding; what the tokenizer needs, padded to ``vocabulary_multiple``."""
    experts: int | None = None
    """Experts of every layer; 0, the default, for a dense MLP."""
    experts_per_token: int | None = None
    """Experts that each token is sent to; 2."""
    expert_ffn_hidden_size: int | None = None
    """Inner width of an expert's gated MLP; ``4 * hidden_size``."""
    router_normalized: bool | None = None
    """The weights of a token's chosen experts add up to 1, rather than those of all; true."""

    router_aux_loss: float = attrs.field(default=0.0, validator=_not_negative)
    """Coefficient of the load-balancing loss."""
    dropout: float = attrs.field(default=0.0, validator=_check_fraction)
    """Dropout of embeddings, residual branches and attention weights."""
    vocabulary_multiple: int = attrs.field(default=128, validator=_count)
    """Rows of the embedding are padded to a multiple of this, unless ``vocabulary_size`` or
    ``like`` says them."""

    def __attrs_post_init__(self) -> None:
        self._check_experts(self.shape)

    @cached_property
    def shape(self) -> Shape:
        """All that the options, ``like`` and the defaults say together."""
        names = [field.name for field in attrs.fields(Shape)]
        given = {name: v for name in names if (v := getattr(self, name)) is not None}
        if self.like is None:
            return complete(given)
        directory = Path(self.like)
        read = config_json.read_shape(directory, given)
        try:
            return complete(read | given)
        except ValueError as error:
            raise ValueError(f"{error} (from {config_json.taken(directory, given)})") from error

    def _check_experts(self, shape: Shape) -> None:
        """What is given is read."""
        unread = [name for name in OF_EXPERTS if getattr(self, name) is not None]
        if self.router_aux_loss:
            unread.append("router_aux_loss")
        if not shape.experts and unread:
            raise ValueError(
                f"{', '.join(unread)}: the layers are dense; leave it out, or set experts"
            )
        if shape.experts and self.ffn_hidden_size is not None:
            raise ValueError(
                f"ffn_hidden_size is {self.ffn_hidden_size}, but every layer has experts; give "
                "expert_ffn_hidden_size instead"
            )

    def embedding_rows(self, needed: int) -> int:
        """Rows of the embedding of a model whose tokenizer has ``needed`` ids."""
        padded = -(-needed // self.vocabulary_multiple) * self.vocabulary_multiple
        return self.shape.vocabulary_size or padded
