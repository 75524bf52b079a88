"""What ``provide_batch`` returned, checked on the rank that asked: the error names the hook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mimo_core.contract import ModuleConfig, Sample
from mimo_core.data.sequence_builder import SequenceBuilder
from mimo_core.errors import PluginError

_KEYS = ("input_ids", "labels", "loss_mask", "position_ids")
_OPTIONAL = ("attention_mask", "padding_mask")


def check_answer(
    module: ModuleConfig,
    samples: Sequence[Sample],
    given: Mapping[str, Any] | None,
    builder: SequenceBuilder,
    hook: str,
) -> None:
    """Check a batch against what the samples and the engine need.

    Args:
        module: Whose batch it is.
        samples: Of the slice.
        given: What the hook returned.
        builder: Counts positions.
        hook: The hook and its plugin, as messages name them.

    Raises:
        PluginError: there is none where one is needed, or it has other keys than the language
            model reads.
    """
    if module.is_language:
        _check_sequences(module, given, hook)
    elif given is None:
        media = {sample.key: builder.rows(module.name, sample) for sample in samples}
        fed = [f"{key} ({count} positions)" for key, count in media.items() if count]
        if fed:
            raise PluginError(
                f"{hook} returned None, but samples have media for the module: {', '.join(fed)}; "
                "return None only if no sample has any, on all ranks",
                code="plugin.wrong-batch",
                module=module.name,
            )


def _check_sequences(module: ModuleConfig, given: Mapping[str, Any] | None, hook: str) -> None:
    keys = (*_KEYS, "lengths") if module.packing else _KEYS
    if given is None:
        raise PluginError(
            f"{hook} returned None; a language model's batch has {', '.join(keys)}",
            code="plugin.wrong-batch",
            module=module.name,
        )
    missing = [key for key in keys if given.get(key) is None]
    unknown = [key for key in given if key not in (*keys, *_OPTIONAL)]
    if missing or unknown:
        wrong = [f"lacks {', '.join(missing)}"] if missing else []
        wrong += [f"has unknown keys {', '.join(map(repr, unknown))}"] if unknown else []
        raise PluginError(
            f"{hook} returned a batch that {' and '.join(wrong)}; it has {', '.join(keys)}",
            code="plugin.wrong-batch",
            module=module.name,
            missing=tuple(missing),
            unknown=tuple(unknown),
        )
    shapes = {key: list(getattr(given[key], "shape", ())) for key in _KEYS}
    if len({tuple(shape) for shape in shapes.values()}) > 1:
        message = f"{hook} returned tensors of other shapes than each other: {shapes}"
        raise PluginError(message, code="plugin.wrong-batch", module=module.name, shapes=shapes)
