"""The samples of both splits, and this rank's part of every microbatch of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mimo_core.contract import LANGUAGE, Dataset, ModuleConfig, Sample, Split
from mimo_core.data.batch_validation import check_answer
from mimo_core.data.iterator import MicrobatchIterator
from mimo_core.data.microbatch_dataset import (
    BatchBuilderContext,
    MicrobatchDataset,
    Role,
    sample_at,
)
from mimo_core.data.sampler import SequentialSampler, ShuffledSampler
from mimo_core.data.sequence_builder import SequenceBuilder, has_labels
from mimo_core.distributed.seeding import stable_seed
from mimo_core.errors import PluginError, SampleError
from mimo_core.planning.flops import FlopsCounter
from mimo_core.planning.plan import Plan
from mimo_core.train.consistency_checks import compare_samples

_LOOKED_AT = 10_000
"""Training samples among which one must have a learned token."""


class TrainingData:
    """What a rank reads."""

    def __init__(
        self, plan: Plan, rank: int, *, pinned: bool = False, count_steps: bool = False
    ) -> None:
        """Build the datasets and compare them across ranks. Called by all ranks.

        Args:
            plan: What to run.
            rank: This world rank.
            pinned: Batches are to lie in pinned memory.
            count_steps: Count the learned tokens of each step when it begins, where the language
                model is.

        Raises:
            ValueError: the ranks' datasets or tokenizers differ, or a split has no learned token.
        """
        self._plan = plan
        self._rank = rank
        self._pinned = pinned
        self._count_steps = count_steps
        self._modules = [plan.graph.modules[name] for name in plan.layout.modules_on_rank(rank)]
        data = plan.graph.data
        self._datasets: dict[Split, Dataset] = {
            split: plan.host.call_hook("build_dataset", data.plugin, data=data, split=split)
            for split in ("train", "validation")
        }
        compare_samples(plan, self.facts)
        self._source = plan.host.get_plugin(data.plugin).title
        self._check_labels("train", min(len(self._datasets["train"]), _LOOKED_AT))
        self._check_labels("validation", self.looked_at)
        self.workload = FlopsCounter(plan.graph, plan.host)
        """Tells the work of training samples."""

    def _check_labels(self, split: Split, count: int) -> None:
        """Look for a learned token among the first samples of a split, mostly in the first one.

        Raises:
            SampleError: there is none: no mean over learned tokens would exist.
        """
        dataset = self._datasets[split]
        builder = self._builder(dataset)
        for index in range(count):
            if has_labels(builder.tokens(sample_at(dataset, index, self._source))):
                return
        if count:
            raise SampleError(
                f"the {split} split has nothing to learn: none of its {count} samples "
                + ("" if split == "train" else "that an evaluation reads ")
                + f"has a learned token in its first {builder.length} positions "
                f"(train.sequence_length, data.overlength = {self._plan.recipe.data.overlength}); "
                "raise train.sequence_length, or give samples with shorter prompts",
                code="data.no-labels",
                split=split,
                samples=count,
                sequence_length=builder.length,
            )

    def _builder(self, dataset: Dataset) -> SequenceBuilder:
        """Of a dataset's samples.

        Raises:
            PluginError: the dataset's policy for broken samples is none.
        """
        plan, broken = self._plan, getattr(dataset, "broken", None)
        if broken not in (None, "stop", "skip"):
            raise PluginError(
                f"the dataset of {self._source} has broken = {broken!r}; it must be 'stop' or "
                "'skip', or absent",
                code="plugin.wrong-answer",
                plugin=plan.graph.data.plugin,
                hook="build_datasets",
                field="broken",
                value=broken,
            )
        return SequenceBuilder(
            graph=plan.graph,
            length=plan.recipe.train.sequence_length,
            cut=plan.recipe.data.overlength == "truncate",
            broken=broken,
        )

    @property
    def held_out(self) -> Dataset:
        """The validation split."""
        return self._datasets["validation"]

    @property
    def facts(self) -> dict[str, tuple[int, str | None]]:
        """Length and digest of each split."""
        return {
            split: (len(dataset), getattr(dataset, "digest", None))
            for split, dataset in self._datasets.items()
        }

    @property
    def notes(self) -> list[str]:
        """What the datasets have to tell a person, each thing once."""
        told = [getattr(dataset, "note", None) for dataset in self._datasets.values()]
        return list(dict.fromkeys(note for note in told if note))

    @property
    def _tells_work(self) -> bool:
        """Whether this rank tells the work of its training samples: it has the language model's
        last stage."""
        if not any(module.is_language for module in self._modules):
            return False
        place = self._plan.layout.coordinates(self._rank, LANGUAGE)
        return place["pp"] == self._plan.layout.grids[LANGUAGE].pp - 1

    @property
    def looked_at(self) -> int:
        """Held-out samples that an evaluation looks at."""
        wanted = self._plan.recipe.validation.num_samples
        return min(len(self.held_out), wanted or len(self.held_out))

    def training(self, consumed: int) -> MicrobatchIterator:
        """Microbatches of the training split, from the first that was not consumed.

        Args:
            consumed: Samples that the run has trained on before.
        """
        train = self._plan.recipe.train
        first = consumed // self._plan.microbatch
        last = train.iterations * self._microbatches
        dataset = self._datasets["train"]
        order = ShuffledSampler(len(dataset), train.seed)
        return self._feed(dataset, order, first, max(last, first + 1), training=True)

    def evaluation(self, iterations: int) -> MicrobatchIterator:
        """Microbatches of the held-out samples, each sample once, then fillers.

        Args:
            iterations: Of an evaluation, each of a global batch.
        """
        last = iterations * self._microbatches
        return self._feed(self.held_out, SequentialSampler(self.looked_at), 0, last, training=False)

    @property
    def _microbatches(self) -> int:
        """Of a global batch."""
        return self._plan.recipe.train.global_batch_size // self._plan.microbatch

    def _feed(
        self,
        dataset: Dataset,
        order: ShuffledSampler | SequentialSampler,
        first: int,
        last: int,
        training: bool,
    ) -> MicrobatchIterator:
        plan, seed = self._plan, self._plan.recipe.train.seed
        slices = MicrobatchDataset(
            dataset=dataset,
            source=self._source,
            order=order,
            roles=[self._role(module) for module in self._modules],
            microbatch=plan.microbatch,
            training=training,
            seed=seed,
            builder=self._builder(dataset),
            provide=self._provide,
            work=self.workload.numbers if training and self._tells_work else None,
            counted_step=self._microbatches if training and self._count_steps else None,
        )
        loader_seed = stable_seed(seed, self._modules[0].name, self._rank, "loader")
        workers = plan.recipe.data.num_workers
        return MicrobatchIterator(
            slices,
            first=first,
            last=last,
            workers=workers,
            seed=loader_seed,
            pinned=self._pinned,
        )

    def _provide(
        self, module: ModuleConfig, samples: Sequence[Sample], context: BatchBuilderContext
    ) -> dict[str, Any] | None:
        host = self._plan.host
        given: dict[str, Any] | None = host.call_hook(
            "provide_batch", module.plugin, module=module, samples=samples, context=context
        )
        hook = host.named("provide_batch", module)
        check_answer(module, samples, given, context.builder, hook)
        return given

    def _role(self, module: ModuleConfig) -> Role:
        graph, layout = self._plan.graph, self._plan.layout
        place = layout.coordinates(self._rank, module.name)
        first = place["pp"] == 0
        last = place["pp"] == module.grid.pp - 1
        edges = graph.encoders if module.is_language else (module.name,)
        at_an_end = first if module.is_language else last
        return Role(
            module=module,
            dp_rank=place["dp"],
            first_stage=first,
            # Every stage must know how long packed samples are, and what is padding for experts.
            inputs=first
            or last
            or not module.is_language
            or module.packing
            or graph.descriptions[LANGUAGE].num_experts > 0,
            rows=edges if at_an_end else (),
        )
