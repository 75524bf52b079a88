"""What the hooks take and give: the words that a plugin and the core share.

Pure Python: neither torch nor megatron is imported here, so that listing
plugins, planning and validating a recipe stay instant.

Shape legend, used everywhere in this project:
``S`` sequence positions, ``B`` sequences of a microbatch, ``H`` hidden width,
``V`` vocabulary, ``N`` rows (positions of one modality over all its samples).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import attrs

if TYPE_CHECKING:
    import numpy as np

CONTRACT = "1.0"
"""Version of the hooks and of the public names, as plugins state it: see
``mimo_core.plugins.versions``."""

LANGUAGE = "language"
"""The name of the one language model in every module graph."""

Split = Literal["train", "validation"]
"""Which samples of a dataset: those to train on, or those held out."""
Precision = Literal["fp32", "bf16"]
FreezePart = Literal["encoder", "projector", "language"]


@attrs.frozen(kw_only=True)
class Grid:
    """Parallel sizes of one module, and where its ranks begin.

    The dense view factors the module's ranks as ``tp x cp x dp x pp`` (tp
    fastest, the order of Megatron's ``tp-cp-ep-dp-pp``); the expert view
    factors the same ranks as ``etp x ep x expert dp x pp``.
    """

    tp: int = 1
    """Tensor parallel: ranks that share every dense layer."""
    cp: int = 1
    """Context parallel: ranks that share every sequence."""
    pp: int = 1
    """Pipeline parallel: stages that the layers are divided into."""
    dp: int = 1
    """Data parallel: copies of the module, each with its own samples of a microbatch."""
    ep: int = 1
    """Expert parallel: ranks over which the experts of a layer are divided."""
    etp: int = 1
    """Ranks that share every expert."""
    rank_offset: int | None = None
    """World rank of the module's first rank; the default follows the module before it."""

    @property
    def size(self) -> int:
        """Ranks that this module occupies."""
        return self.tp * self.cp * self.pp * self.dp


@attrs.frozen(kw_only=True)
class TrainingConfig:
    """Facts of the run that every module shares (the recipe's ``train`` section)."""

    iterations: int
    """Steps of the optimizer."""
    micro_batch_size: int
    """Samples of a microbatch on one data-parallel rank of the language model."""
    global_batch_size: int
    """Samples of an iteration, over all microbatches and ranks."""
    sequence_length: int
    """Most positions of a sample: those of its text and of its media."""
    learning_rate: float
    """The largest, which the warm-up ends with."""
    min_learning_rate: float = 0.0
    """What the decay falls to. The last iteration is one step of the decay above it: iteration i of
    N, after w iterations of warm-up, is at (i - 1 - w) / (N - w) of the decay."""
    lr_warmup_iterations: int = 0
    """Iterations in which the learning rate rises linearly from 0: iteration i of w has
    (i - 1) / w of it, so the first changes no weight. Without a warm-up the first has all of it."""
    lr_decay_style: Literal["constant", "linear", "cosine"] = "cosine"
    """How the learning rate falls after the warm-up."""
    weight_decay: float = 0.01
    """Of AdamW."""
    max_grad_norm: float = 1.0
    """Largest norm of the whole model's gradient; a longer one is scaled down to it."""
    precision: Precision = "fp32"
    """Of weights and activations, where a module does not say its own. Gradients are accumulated,
    and weights updated, in fp32."""
    seed: int = 1234
    """Of initialisation, dropout, the order of samples and augmentation."""
    log_interval: int = 10
    """Iterations between lines of the log."""


@attrs.frozen(kw_only=True)
class ModuleConfig:
    """A node of the model graph, as a hook sees it: the same on every rank."""

    name: str
    """In the recipe; ``language`` for the language model."""
    plugin: str
    """Name of the plugin that it is asked of."""
    grid: Grid
    """Its parallel sizes."""
    train: TrainingConfig
    """What all modules of the run share."""
    options: Any = None
    """The plugin's own options class, already structured from the recipe."""
    freeze: tuple[FreezePart, ...] = ()
    """Its parts that do not learn; the core sees to it."""
    precision: Precision = "fp32"
    """Of the module's weights and activations."""
    packing: bool = False
    """Samples of a microbatch lie end to end, without padding between them."""
    lr_mult: float = 1.0
    """Of the run's learning rate."""
    wd_mult: float = 1.0
    """Of the run's weight decay."""
    megatron: Mapping[str, Any] = attrs.field(factory=dict)
    """Fields of megatron's ``TransformerConfig`` that the recipe sets for this module;
    ``transformer_config`` puts them in."""
    wrappers: Mapping[str, Any] = attrs.field(factory=dict)
    """Plugins that wrap this module's hooks, the innermost first, each with its own options class,
    already structured from the recipe; ``None`` for one that takes no options."""
    language_width: int | None = None
    """Hidden width of the language model: what an encoder's projector must put out.
    Set for every module but the language model itself while it is described."""
    vocabulary_size: int | None = None
    """Token ids of the tokenizer, placeholders included; set for the language model."""

    @property
    def is_language(self) -> bool:
        """It is the language model."""
        return self.name == LANGUAGE

    @property
    def wholly_frozen(self) -> bool:
        """No part of it learns."""
        parts = {LANGUAGE} if self.is_language else {"encoder", "projector"}
        return parts <= set(self.freeze)


@attrs.frozen(kw_only=True)
class Edge:
    """What a module feeds: ``source`` puts its rows where ``target`` has ``placeholder``."""

    source: str
    """Name of the module that puts the rows out."""
    target: str
    """Name of the module that takes them: the language model."""
    placeholder: str
    """Symbolic, such as ``<image>``: the tokenizer's owner turns it into an id."""


@attrs.frozen(kw_only=True)
class ParameterSpec:
    """Some of a module's parameters, which lie on its ranks in one way."""

    num_parameters: int
    """Of the whole module, not of one rank."""
    component: FreezePart = "encoder"
    """``encoder``, ``projector`` or ``language``: the word by which they are frozen."""
    sharded_over: frozenset[str] = frozenset()
    """Grid sizes over which they are divided: ``tp`` for dense weights, ``ep`` and ``etp`` for
    experts; ranks hold whole copies over all others."""
    layer: int | Literal["first", "last"] = "first"
    """The layer that they belong to, or the first or last pipeline stage."""
    frozen: bool = False
    """They do not learn, whatever the recipe's ``freeze`` says."""


@attrs.frozen(kw_only=True)
class FlopsEstimate:
    """Floating-point operations of a module's forward, or of a piece of it; a multiply-add is 2.

    Backward is not told: the host adds it. It takes as much again for the gradients of the weights
    where they learn, and as much again for those of what goes in where anything at or before this
    piece learns; products of activations take twice their own there.
    """

    component: FreezePart = "encoder"
    """``encoder``, ``projector`` or ``language``: the word by which its weights are frozen."""
    weight_matmul: float = 0.0
    """Of products with weights: linear layers, convolutions, the output layer; of experts those
    that a position is sent to."""
    activation_matmul: float = 0.0
    """Of products of activations with each other: attention's scores and values, a scan."""
    frozen: bool = False
    """The weights do not learn, whatever the recipe's ``freeze`` says."""


@attrs.frozen(kw_only=True)
class ModuleDescription:
    """A module told in numbers, without torch: for the plan, the validation, the data path."""

    hidden_size: int
    """Features of one output position before any projector (language model: hidden size)."""
    num_layers: int
    """Of the module, over all its pipeline stages."""
    num_attention_heads: int
    """Attention heads of a layer, over all tensor-parallel ranks."""
    parameters: tuple[ParameterSpec, ...]
    """All parameters of the module, trainable or frozen, its projector included."""
    num_experts: int = 0
    """Routed experts of a layer; 0 where it has none."""
    modality: str | None = None
    """Encoders: the kind of :class:`Media` that they read, such as ``image``."""
    count_positions: Callable[[Sequence[MediaItem]], Sequence[int]] | None = None
    """Encoders: sequence positions that each medium of one sample takes, from the metadata of all
    the sample's media of the accepted kind (so that they may share a budget): one whole number for
    each, such as ``lambda media: [256 for _ in media]``."""
    supported_parallelism: frozenset[str] = frozenset({"dp"})
    """Grid sizes that may exceed 1, of ``tp cp pp dp ep etp``; others are refused."""
    unsupported_reasons: Mapping[str, str] = attrs.field(factory=dict)
    """Why grid sizes that ``parallel`` leaves out may not exceed 1, by the size's name: told where
    a recipe asks for one."""
    divisibility: tuple[tuple[str, int, str], ...] = ()
    """Sizes that a grid size must divide: (what, its value, name of the grid size), such as
    ``("attention heads", 32, "tp")``; or the product of several, ``"tp x cp"``."""
    supports_packing: bool = False
    """The module can run on packed samples (``modules.NAME.packing``)."""
    vocab_size: int | None = None
    """Language model: ids that its embedding has rows for; every token and placeholder must be
    among them. ``None``: as many as the tokenizer has."""
    owned_config_fields: frozenset[str] = frozenset()
    """Fields of ``TransformerConfig`` that follow from the plugin's options; a recipe that sets one
    under ``modules.NAME.megatron`` is refused."""
    graphable_layers: frozenset[str] | None = None
    """Language model: the parts of its layers that CUDA graphs can capture, of ``mamba``, ``attn``
    and ``moe`` (layers of experts alone); a recipe that lists another is refused. ``None``: ranks
    find out."""
    notes: tuple[str, ...] = ()
    """What a person should know of the module that no number here tells: shown by ``mimo plan`` and
    when the run starts, behind the module's name."""

    @property
    def num_parameters(self) -> int:
        """All parameters of the module."""
        return sum(weights.num_parameters for weights in self.parameters)


@attrs.frozen(kw_only=True)
class EncoderSpec:
    """The parts of an encoder, as ``build_submodule`` gives them.

    The tower's forward takes what the module's ``provide_batch`` gave, as keyword
    arguments, and returns rows ``[N, width]`` (or ``[B, S, width]``, which is flattened); anything
    else, such as a tuple, is refused. It is not called where ``provide_batch`` gave ``None``.

    With pp above 1 every stage builds a tower, of the layers that ``groups.pp`` says are its own.
    A stage before the last returns hidden states ``[S, B, H]`` in the config's ``pipeline_dtype``;
    a stage after the first gets those of the stage before it, with the same shape, as the keyword
    argument ``hidden_states``. Only the last has the projector.

    A tower that does not learn may be captured as a CUDA graph (``cuda_graph_impl: local``), if its
    forward then neither waits for the device nor copies from the host's memory. One that computes a
    shape in another way when it has come often has a method ``settled``, which takes what the
    forward takes and says whether this shape will be computed from now on as it would be now.
    """

    tower: Any
    """``megatron.core.transformer.spec_utils.ModuleSpec`` of the tower."""
    config: Any
    """The tower's ``TransformerConfig``."""
    projector: Any = None
    """``ModuleSpec`` of the projector, rows ``[N, width] -> [N, language width]``. ``None``: the
    core's affine projector."""


@attrs.frozen(kw_only=True)
class Text:
    """A piece of text in a sample."""

    text: str
    """As the tokenizer reads it."""
    is_target: bool = False
    """The model learns to say it."""


@attrs.frozen(kw_only=True)
class MediaItem:
    """A picture, a sound, …: its metadata at once, its data only where it is decoded."""

    modality: str
    """Such as ``image``: encoders whose description accepts it read it."""
    shape: tuple[int, ...]
    """Metadata from which positions are counted; for an image ``(height, width)``, for a sound
    (``audio``) ``(samples, samples a second)``."""
    load: Callable[[np.random.Generator | None], np.ndarray]
    """Decodes the data; an image as uint8 ``[height, width, 3]``, a sound as float32 ``[samples]``,
    mono, between -1 and 1. Given a generator (training only), it may augment within the shape: what
    it draws is a pure function of (seed, sample position)."""


@attrs.frozen(kw_only=True)
class Sample:
    """One raw example of a dataset: its parts in the order of the sequence."""

    key: str
    """Names the sample in messages: ``digits/train/17``, ``captions.jsonl:3``."""
    content: tuple[Text | MediaItem, ...]
    """Texts and media, as they follow each other."""

    def media(self, kind: str) -> Iterator[MediaItem]:
        """The sample's media of one kind, in order."""
        return (
            part for part in self.content if isinstance(part, MediaItem) and part.modality == kind
        )


@attrs.frozen(kw_only=True)
class DatasetConfig:
    """The recipe's ``data`` section, as ``build_dataset`` sees it."""

    plugin: str
    """Name of the dataset's plugin."""
    options: Any = None
    """The plugin's own options class, already structured from the recipe."""
    seed: int = 1234
    """The run's, for what the dataset draws."""
    wrappers: Mapping[str, Any] = attrs.field(factory=dict)
    """Plugins that wrap the dataset's hooks, the innermost first, with their options."""


@runtime_checkable
class Dataset(Protocol):
    """What ``build_dataset`` gives: random access, the same on every rank.

    Besides these two it may carry ``metric: str``, the name under which exact answers of
    the evaluation are reported (default ``exact_match``); ``digest: str``, a hash of what it
    holds; ``note: str``, told on the screen when the run starts; and ``broken``, ``"stop"``
    (default) or ``"skip"``: whether a sample without a learned token within the run's sequence
    length stops the run, or keeps its place and is left out of the loss. Lengths and digests are
    compared across ranks before training.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@attrs.frozen(kw_only=True)
class TokenBatch:
    """Token sequences of a microbatch slice (numpy).

    Each sample padded to the run's sequence length, ``S``; or, where the module packs, one row
    (``B`` = 1) of all samples end to end, ``S`` the sum of ``lengths``.
    """

    input_ids: np.ndarray
    """int64 ``[B, S]``."""
    labels: np.ndarray
    """int64 ``[B, S]``: the id that follows each position."""
    loss_mask: np.ndarray
    """float32 ``[B, S]``: 1 where the label is text to be learned; never at a label that is a
    placeholder or padding."""
    position_ids: np.ndarray
    """int64 ``[B, S]``: counted from the start of each sample."""
    padding_mask: np.ndarray
    """bool ``[B, S]``: true where a position is of no sample; routers of experts leave it out. A
    sample of ``n`` ids has ``n - 1`` positions: its last id is only a label."""
    lengths: np.ndarray | None = None
    """Packed only, int32 ``[samples]``: positions of each sample, with cp > 1 padded to a multiple
    of 2 cp; the last entry may be padding (up to what tp and cp must divide)."""


class BatchContext(Protocol):
    """What the core offers to ``provide_batch``."""

    training: bool
    """Not evaluation: media are augmented."""
    first_stage: bool
    """The calling module's first pipeline stage, where media are decoded."""

    def build_tokens(self, samples: Sequence[Sample]) -> TokenBatch:
        """The samples as token sequences, placeholders expanded."""

    def decode_media(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        """Decoded media of the calling module's kind, over all samples, in order.

        Augmented in training only; every call is counted on this rank.

        Raises:
            ValueError: this is a later pipeline stage (``first_stage`` is false).
        """


class Platform(Protocol):
    """The machine, as a plugin may see it."""

    name: Literal["cpu", "cuda"]
    """What the ranks compute on."""
    transformer_engine: bool
    """TransformerEngine layers are to be used (cuda), else core's local layers."""

    @property
    def device(self) -> Any:
        """``torch.device`` of this rank."""
