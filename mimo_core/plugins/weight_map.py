"""How a module's weights are named in a Hugging Face directory: what ``weight_map`` gives.

Pure Python; the conversions get tensors and import torch themselves where they need it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from mimo_core.contract import FreezePart

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]
Load = Callable[[Sequence["Tensor"]], Sequence["Tensor | None"]]
Save = Callable[[Sequence["Tensor"]], Sequence["Tensor"]]


@attrs.frozen(kw_only=True)
class CheckpointTensor:
    """A tensor of Megatron's sharded state dict, whole: the same for every layout."""

    key: str
    """Below the part: below an encoder's tower, below its projector, below the language model."""
    shape: Shape
    """Without the axes that ``index`` counts on."""
    index: tuple[int, ...] = ()
    """Its place where Megatron stacks the tensors of layers or experts under one key."""


@attrs.frozen(kw_only=True)
class ParamMapping:
    """Tensors of a checkpoint, and the tensors of a file that hold the same numbers.

    Neither conversion may change a number: one is the exact inverse of the other. The exception is
    a stored tensor that no file holds, such as an adapter's: ``load`` gives ``None`` for it, so it
    begins fresh, and ``save`` puts what it says into the others.
    """

    component: FreezePart
    """The part of the module that the tensors belong to."""
    tensors: tuple[CheckpointTensor, ...]
    """Tensors of the checkpoint."""
    files: Mapping[str, Shape]
    """Names and shapes in a Hugging Face directory."""
    load: Load = list
    """Tensors of the file, in the order of ``files``, to those of the checkpoint, in the order of
    ``stored``; ``None`` for one that is in no file. By default they are the same."""
    save: Save = list
    """The inverse of ``load``."""


@attrs.frozen(kw_only=True)
class ConstantTensor:
    """A tensor of a file that is no weight here: where a file has it, it must hold these values."""

    name: str
    """In the file."""
    shape: Shape
    """In the file."""
    values: tuple[float, ...]
    """All of them, in order; or one for all."""
    meaning: str
    """What sets it, and the way out where a file has other values."""
    exported: bool = False
    """Written into a directory that is made from nothing."""


@attrs.frozen(kw_only=True)
class ParamMappings:
    """All that a directory holds of one module."""

    rules: tuple[ParamMapping, ...]
    """Of every parameter, and of the buffers that are saved. The first rule's part is the main
    one."""
    constants: tuple[ConstantTensor, ...] = ()
    """Named as the main part is."""
    foreign: Mapping[str, str] = attrs.field(factory=dict)
    """Names that a directory may hold and the module has no place for: pattern (``*`` stands for
    anything) and what that is. Named as the main part is. What is not read is told."""
    copies: Mapping[str, tuple[str, str]] = attrs.field(factory=dict)
    """Names that are among ``foreign`` because another tensor stands for them too: that one, and
    the way out where a file holds other numbers under both. Named as the main part is."""
    config: Mapping[str, tuple[Any, str]] = attrs.field(factory=dict)
    """Keys of ``config.json`` that no shape tells: the value that is right for this module, and
    what sets it. A directory whose file has the key and another value is refused."""
    config_below: tuple[str, ...] = ()
    """Where such a key is in the file of a whole model: below the first of these that it has."""
    config_mistakes: Callable[[Mapping[str, Any]], Iterable[str]] | None = None
    """What of ``config.json`` no list of keys tells: why it is of another model than this, each
    to be read after the words "config.json". Asked with what is below ``config_below``; not where
    a directory has no such file."""
    config_notes: Callable[[Mapping[str, Any]], Iterable[str]] | None = None
    """What of a directory's ``config.json`` nothing reads, each to be read after its name: shown by
    the plan and when the run starts. Asked as ``config_mistakes`` is."""
    exported_config: Mapping[str, Any] = attrs.field(factory=dict)
    """The ``config.json`` of a directory that is made from nothing and holds this module alone."""
    prefix: str = ""
    """Stands before the names of the main part in a directory of several modules."""
    locate: Callable[[str], Path] = Path
    """Turns what a recipe says under ``modules.NAME.pretrained_weights`` into a directory here; by
    default that is its path. Raises ``MimoError`` where there is none."""
