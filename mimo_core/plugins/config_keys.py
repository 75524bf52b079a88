"""Keys of ``config.json`` of one type of model, for plugins that read or judge such files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

BOOKKEEPING = frozenset(
    {
        *("_attn_implementation", "_attn_implementation_autoset", "_commit_hash"),
        *("_flash_attn_2_enabled", "_name_or_path", "_experts_implementation"),
        *("architectures", "attn_implementation", "auto_map", "model_type", "name_or_path"),
        *("dtype", "torch_dtype", "torchscript", "transformers_version", "unsloth_version"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "decoder_start_token_id"),
        *(
            "id2label",
            "label2id",
            "num_labels",
            "problem_type",
            "finetuning_task",
            "task_specific_params",
        ),
        *("output_attentions", "output_hidden_states", "return_dict", "use_cache", "use_bfloat16"),
        *("chunk_size_feed_forward", "gradient_checkpointing", "initializer_factor"),
        *("init_std", "initializer_range", "is_decoder", "is_encoder_decoder", "tf_legacy_loss"),
        *("add_cross_attention", "cross_attention_hidden_size", "tie_encoder_decoder"),
        *("tokenizer_class", "prefix", "remove_invalid_values", "pruned_heads"),
        *("bad_words_ids", "begin_suppress_tokens", "diversity_penalty", "do_sample"),
        *("early_stopping", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty"),
        *("forced_bos_token_id", "forced_eos_token_id", "forced_decoder_ids", "length_penalty"),
        *("max_length", "min_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams"),
        *("num_return_sequences", "output_scores", "repetition_penalty", "return_dict_in_generate"),
        *("suppress_tokens", "temperature", "top_k", "top_p", "typical_p"),
    }
)
"""Keys that any such file may have and that change no weight's meaning: what writes the file,
types in memory, ids of tokens, first weights of a fresh model, and generation."""


@attrs.frozen(kw_only=True)
class ConfigKeys:
    """What is known of the keys of one type of model."""

    defaults: Mapping[str, Any]
    """Keys that decide what the weights compute; for each, the value where a file lacks it: that of
    the type's class in transformers."""
    nullable: frozenset[str] = frozenset()
    """Those of ``defaults`` that may be ``null``, with a meaning of its own."""
    training: Mapping[str, Any] = attrs.field(factory=dict)
    """Keys that act in training only, where the recipe decides, with the value that has no effect.
    Another value is reported."""
    ignored: frozenset[str] = frozenset()
    """Keys that change nothing, besides :data:`BOOKKEEPING`."""

    def filled(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """All keys of ``defaults``, with the file's value where it has one."""
        return {
            key: config.get(key, value)
            if key in self.nullable or config.get(key) is not None
            else value
            for key, value in self.defaults.items()
        }

    def nulls(self, config: Mapping[str, Any], at: str = "") -> Iterator[str]:
        """Keys that are ``null`` without a meaning, each to be read after the name of the file.

        Args:
            config: The object of the file that has the keys.
            at: Where the object is in the file: ``text_config.``, or nothing.
        """
        for key, default in self.defaults.items():
            if default is not None and key not in self.nullable and config.get(key, "") is None:
                yield f"says {at}{key} null; expected a value such as {default!r}"

    def notes(self, config: Mapping[str, Any], at: str = "") -> Iterator[str]:
        """What of a file nothing reads, each to be read after the name of the file.

        Args:
            config: As for :meth:`nulls`.
            at: As for :meth:`nulls`.
        """
        for key, value in config.items():
            if value is None or value is False or value in ("", [], {}):  # asks for nothing
                continue
            if key in self.training:
                if value != self.training[key]:
                    yield f"says {at}{key} {value!r}, which is not read: the recipe decides it"
            elif key not in self.defaults and key not in self.ignored | BOOKKEEPING:
                text = repr(value)
                shown = text if len(text) <= 60 else f"{text[:57]}..."
                yield f"says {at}{key} {shown}, which is not known here and is not read"

    def unlike(
        self, config: Mapping[str, Any], due: Mapping[str, tuple[Any, str]], at: str = ""
    ) -> Iterator[str]:
        """Where a file wants another model, each to be read after the name of the file.

        Args:
            config: As for :meth:`nulls`.
            due: By key of ``defaults``, the value that is right here and what sets it (read after
                a colon).
            at: As for :meth:`nulls`.
        """
        yield from self.nulls(config, at)
        filled = self.filled(config)
        for key, (value, meaning) in due.items():
            found = filled[key]
            if _same(found, value):
                continue
            if config.get(key) is None:
                says = f"lacks {at}{key}, which its type takes as {found!r}"
            else:
                says = f"says {at}{key} {found!r}"
            yield f"{says}, but here it is {value!r}: {meaning}"


def _same(found: Any, due: Any) -> bool:
    """Whether two values of a file are one: some files hold the float32 nearest to a number."""
    if isinstance(found, list | tuple) and isinstance(due, list | tuple):
        return len(found) == len(due) and all(map(_same, found, due))
    numbers = (int, float)
    if type(found) in numbers and type(due) in numbers:
        return bool(found == due or abs(found - due) <= 1e-6 * abs(due))
    return bool(found == due)
