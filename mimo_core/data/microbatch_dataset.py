"""One rank's part of a microbatch, made from the global order."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from mimo_core.contract import Dataset, ModuleConfig, Sample, TokenBatch
from mimo_core.data.sampler import SequentialSampler, ShuffledSampler, augmentation_generator
from mimo_core.data.sequence_builder import SequenceBuilder, Tokens, has_labels
from mimo_core.errors import PluginError, SampleError, code_of, text_of, values_of
from mimo_core.planning.rank_layout import sample_slice


@attrs.frozen(kw_only=True)
class Role:
    """What a rank needs of every microbatch for one of its modules."""

    module: ModuleConfig
    dp_rank: int
    first_stage: bool
    inputs: bool
    """The module's own batch (``provide_batch``)."""
    rows: tuple[str, ...]
    """Encoders whose row counts it needs, because it sends or receives their rows."""


@attrs.frozen(kw_only=True)
class Batch:
    """One rank's part of a microbatch."""

    inputs: Mapping[str, dict[str, Any] | None]
    """By module of the rank: what ``provide_batch`` gave."""
    rows: Mapping[str, tuple[int, ...]]
    """By encoder: rows of each sample of the slice."""
    decoded: int
    """Media decoded for it."""
    work: tuple[float, ...] = ()
    """Of the slice's samples, where the rank tells it: see ``mimo_core.planning.flops``."""
    without_labels: tuple[str, ...] = ()
    """Keys of the slice's samples that have no learned token, where the rank reports its work."""
    learned_in_step: int | None = None
    """Learned tokens of the rank's slices of the step that begins with this microbatch; ``None`` in
    other microbatches, and where nothing needs it."""

    def pin_memory(self) -> Batch:
        """With its tensors in pinned memory; called by the loader."""
        return attrs.evolve(
            self,
            inputs={
                module: given and {name: _pinned(value) for name, value in given.items()}
                for module, given in self.inputs.items()
            },
        )


@attrs.define(kw_only=True)
class BatchBuilderContext:
    """``BatchContext`` of one slice; see ``mimo_core.contract``."""

    training: bool
    first_stage: bool
    samples: Sequence[Sample]
    places: Sequence[int]
    """Positions of the samples in the run."""
    counted: Sequence[bool]
    encoder: str | None
    """The module that asks, where it is an encoder."""
    seed: int
    builder: SequenceBuilder
    decoded: int = 0
    _tokens: dict[int, Tokens] = attrs.field(factory=dict, init=False)

    def build_tokens(self, samples: Sequence[Sample]) -> TokenBatch:
        told = [self.tokens(sample) for sample in samples]
        return self.builder.arrange(told, [self.counted[self._index(s)] for s in samples])

    def tokens(self, sample: Sample) -> Tokens:
        """Of one of the samples, made once."""
        index = self._index(sample)
        if index not in self._tokens:
            self._tokens[index] = self.builder.tokens(sample)
        return self._tokens[index]

    def decode_media(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        if not self.first_stage:
            raise PluginError(
                "media are decoded on the first pipeline stage alone; where context.first_stage is "
                "false, provide_batch must tell what the stage needs from the samples' metadata",
                code="plugin.wrong-context-call",
                function="load",
            )
        arrays = []
        for sample in samples:
            generator = None
            if self.training:
                place = self.places[self._index(sample)]
                generator = augmentation_generator(self.seed, place)
            for medium in sample.media(self._accepts):
                try:
                    arrays.append(medium.load(generator))
                except Exception as error:
                    raise SampleError(
                        f"cannot decode {medium.modality} of {sample.key}: {text_of(error)}",
                        code=code_of(error, "sample.undecodable"),
                        sample=sample.key,
                        kind=medium.modality,
                    ) from error
                self.decoded += 1
        return arrays

    @property
    def _accepts(self) -> str:
        if self.encoder is None:
            return ""
        return self.builder.graph.descriptions[self.encoder].modality or ""

    def _index(self, sample: Sample) -> int:
        for index, own in enumerate(self.samples):
            if own is sample:
                return index
        raise PluginError(
            f"sample {sample.key} is not of this batch",
            code="plugin.wrong-context-call",
            sample=sample.key,
        )


class MicrobatchDataset(TorchDataset[Batch]):
    """Microbatch number -> this rank's :class:`Batch`; random access, nothing remembered."""

    def __init__(
        self,
        *,
        dataset: Dataset,
        source: str,
        order: ShuffledSampler | SequentialSampler,
        roles: Sequence[Role],
        microbatch: int,
        training: bool,
        seed: int,
        builder: SequenceBuilder,
        provide: Callable[
            [ModuleConfig, Sequence[Sample], BatchBuilderContext], dict[str, Any] | None
        ],
        work: Callable[[Sequence[Sample], Sequence[int]], tuple[float, ...]] | None = None,
        counted_step: int | None = None,
    ) -> None:
        """
        Args:
            dataset: Samples of the split.
            source: The plugin that they come from, as messages name it.
            order: Position -> sample index.
            roles: What this rank needs, for each of its modules.
            microbatch: Samples of a microbatch over all data-parallel ranks of the language model.
            training: Augment.
            seed: Of augmentation.
            builder: Counts rows and builds sequences.
            provide: The module's ``provide_batch``.
            work: Tells the work of samples and their lengths, where the language model's rank is
                to tell it.
            counted_step: Microbatches of a step, where the learned tokens of a whole step are to
                be counted when it begins.
        """
        self._counted_step = counted_step
        self._dataset = dataset
        self._source = source
        self._order = order
        self._roles = roles
        self._microbatch = microbatch
        self._training = training
        self._seed = seed
        self._builder = builder
        self._provide = provide
        self._work = work

    def __getitem__(self, number: int) -> Batch:
        inputs: dict[str, dict[str, Any] | None] = {}
        rows: dict[str, tuple[int, ...]] = {}
        decoded = 0
        work: tuple[float, ...] = ()
        without_labels: tuple[str, ...] = ()
        learned: int | None = None
        for role in self._roles:
            context = self._context(role, number)
            for encoder in role.rows:
                counts = (self._builder.rows(encoder, sample) for sample in context.samples)
                rows[encoder] = tuple(counts)
            if not role.inputs:
                continue
            inputs[role.module.name] = self._provide(role.module, context.samples, context)
            decoded += context.decoded
            if self._work is not None and role.module.is_language:
                tokens = [context.tokens(sample) for sample in context.samples]
                work = self._work(context.samples, [len(ids) - 1 for ids, _ in tokens])
                without_labels = tuple(
                    sample.key
                    for sample, found in zip(context.samples, tokens, strict=True)
                    if not has_labels(found)
                )
            if role.module.is_language and self._begins_step(number):
                learned = self._learned(role, number, inputs[role.module.name])
        return Batch(
            inputs=inputs,
            rows=rows,
            decoded=decoded,
            work=work,
            without_labels=without_labels,
            learned_in_step=learned,
        )

    def _context(self, role: Role, number: int) -> BatchBuilderContext:
        """The samples that a role has of a microbatch."""
        begin, end = sample_slice(self._microbatch, role.module.grid.dp, role.dp_rank)
        places = [number * self._microbatch + offset for offset in range(begin, end)]
        indices = [self._order[place] for place in places]
        return BatchBuilderContext(
            training=self._training,
            first_stage=role.first_stage,
            # Objects of their own: a dataset may give the same one for a filler, or an epoch later.
            samples=[
                attrs.evolve(sample_at(self._dataset, index or 0, self._source))
                for index in indices
            ],
            places=places,
            counted=[index is not None for index in indices],
            encoder=None if role.module.is_language else role.module.name,
            seed=self._seed,
            builder=self._builder,
        )

    def _begins_step(self, number: int) -> bool:
        return self._counted_step is not None and number % self._counted_step == 0

    def _learned(self, role: Role, first: int, begun: dict[str, Any] | None) -> int:
        """Learned tokens of a role's slices of the step that begins with a microbatch."""
        assert self._counted_step is not None
        batches = [begun]
        for number in range(first + 1, first + self._counted_step):
            context = self._context(role, number)
            batches.append(self._provide(role.module, context.samples, context))
        return sum(int(batch["loss_mask"].sum()) for batch in batches if batch is not None)


def sample_at(dataset: Dataset, index: int, source: str) -> Sample:
    """A sample of a dataset.

    Args:
        dataset: One split.
        index: Of the sample.
        source: The plugin that the dataset comes from, as messages name it.

    Raises:
        SampleError: raised by the dataset.
        PluginError: the dataset failed, or returned something else.
    """
    where = f"the dataset of {source}, sample {index},"
    try:
        sample = dataset[index]
    except SampleError:
        raise
    except Exception as error:
        *_, (frame, line) = traceback.walk_tb(error.__traceback__)
        place = f"{frame.f_code.co_filename}:{line}"
        said = f"{where} failed: {type(error).__name__}: {text_of(error)} (at {place})"
        code = code_of(error, "plugin.dataset-failed")
        raise PluginError(said, code=code, **{**values_of(error), "sample": index}) from error
    if not isinstance(sample, Sample):
        message = f"{where} gave a {type(sample).__name__}, not a Sample"
        raise PluginError(message, code="plugin.wrong-answer", sample=index)
    return sample


def _pinned(value: Any) -> Any:
    return value.contiguous().pin_memory() if isinstance(value, torch.Tensor) else value
