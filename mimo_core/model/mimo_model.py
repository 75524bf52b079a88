"""The outer model of a rank: megatron's ``MimoModel`` with the modules that are here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.models.mimo.config import MimoModelConfig
from megatron.core.models.mimo.config.role import ModuleLayout, RankRole
from megatron.core.models.mimo.model.base import MimoModel
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.tensor_parallel import VocabParallelEmbedding
from megatron.core.utils import get_model_config, unwrap_model

from mimo_core.checkpoint.keys import module_prefix
from mimo_core.contract import LANGUAGE, ModuleConfig
from mimo_core.distributed.context_parallel import CPPartitionAdapter
from mimo_core.distributed.grad_buckets import OrderedBucketReducer
from mimo_core.errors import CheckpointError, PluginError
from mimo_core.megatron_patches.wgrad_accumulation import add_rows, add_up
from mimo_core.model.embedding_merge import ScatterIndices, scatter_embeddings
from mimo_core.model.encoder_module import FEATURES, TOWER, EncoderSubmodule, check_output
from mimo_core.model.moe.routers import Routers
from mimo_core.model.precision import statistics_that_do_not_learn
from mimo_core.planning.plugin_answers import titled
from mimo_core.platforms.base import RankPlatform


class RankMimoModel(MimoModel):
    """One rank's model: an encoder's container, the language model, or (colocated) all of them;
    each wrapped by the builder.

    Mends in megatron-core 0.19's ``MimoModel``:

    - a language model alone on its grid is taken for a colocated layout, whose forward knows no
      pipeline stages, and a colocated one's wants even counts and skips encoders without input:
      the role is always told by the grids here, and the forward step calls modules one by one;
    - checkpoint keys count the wrappers around a module, so that fp32 and bf16 runs cannot read
      each other: keys are free of wrappers here;
    - ``train()`` reaches frozen parts, also after every evaluation: they stay in eval mode here;
    - which positions a context-parallel rank holds is asked of TransformerEngine where samples are
      packed: see :class:`~mimo_core.distributed.context_parallel.CPPartitionAdapter`;
    - the host waits for the device to find where rows go: see
      :mod:`~mimo_core.model.embedding_merge`.
    """

    def __init__(
        self,
        config: MimoModelConfig,
        *,
        modules: Mapping[str, ModuleConfig],
        groups: Mapping[str, ProcessGroupCollection],
        building: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        """
        Args:
            config: Specs and grids of all modules.
            modules: The modules of this rank.
            groups: Their process groups.
            building: Gives what a module of this name is built in: its seed, its device.
        """
        self._building = building
        one = groups[LANGUAGE] if LANGUAGE in groups else next(iter(groups.values()))
        super().__init__(config, cp_group=one.cp, tp_group=one.tp)
        assert config.module_to_grid_map is not None
        self.role = RankRole._from_grid_map(config.module_to_grid_map)
        assert self.role.mode is ModuleLayout.NON_COLOCATED
        self.nodes = dict(modules)
        self.groups = dict(groups)
        # The stock loop reads it for reductions, logging and checkpoints of this rank.
        self.pg_collection = one
        self._frozen: list[torch.nn.Module] = []
        self.reductions: dict[str, OrderedBucketReducer] = {}
        """By module, where gradients are reduced during backward."""
        self.num_learned_tokens: torch.Tensor | None = None
        """Of the last step's global batch, a scalar on the device; the same on all ranks."""
        self.routers: Routers | None = None
        """Of the language model, if it is here."""
        self._places: ScatterIndices = {}
        if self.partition_adapter is not None:
            self.partition_adapter = CPPartitionAdapter(self.partition_adapter.cfg)

    def _initialize_submodules(self) -> None:
        """Core's, each module in its own surroundings."""
        for name, spec in self.mimo_config.modality_submodules_spec.items():
            if name in self.role.modules:
                stage = self.role.modules[name]
                with self._building(name):
                    self.modality_submodules[name] = spec.module.from_spec(
                        spec, is_first_stage=stage.is_first_stage, is_last_stage=stage.is_last_stage
                    )

    def _initialize_language_model(self) -> None:
        with self._building(LANGUAGE) if self.role.has_language_module else nullcontext():
            super()._initialize_language_model()

    # Modules of this rank
    @property
    def has_language(self) -> bool:
        """Whether the language model, or a stage of it, is on this rank."""
        return LANGUAGE in self.nodes

    def active(self, name: str) -> torch.nn.Module:
        """One of this rank's modules with its wrappers."""
        if name == LANGUAGE:
            return self.language_model  # type: ignore[no-any-return]
        return self.modality_submodules[name]

    def replace(self, name: str, wrapped: torch.nn.Module) -> None:
        """Put the wrapped module in place of the bare one."""
        if name == LANGUAGE:
            self.language_model = wrapped
        else:
            self.modality_submodules[name] = wrapped

    def bare(self, name: str) -> torch.nn.Module:
        """One of this rank's modules without wrappers."""
        return unwrap_model(self.active(name))  # type: ignore[no-any-return]

    def part(self, name: str, word: str) -> torch.nn.Module | None:
        """``encoder``, ``projector`` or ``language`` of a module: the words of ``freeze``."""
        bare = self.bare(name)
        if isinstance(bare, EncoderSubmodule):
            return {"encoder": bare.tower, "projector": bare.projector}.get(word)
        return bare if word == LANGUAGE else None

    def freeze(self) -> None:
        """Stop parts from learning; before wrapping, so that no gradient buffers are made."""
        for name, module in self.nodes.items():
            for word in module.freeze:
                part = self.part(name, word)
                if part is not None:
                    part.requires_grad_(False)
                    part.eval()
                    self._frozen.append(part)
            for norm in statistics_that_do_not_learn(self.bare(name)):
                norm.eval()
                self._frozen.append(norm)

    def accumulate_in_products(self, platform: RankPlatform) -> None:
        """Have layers that can do so add the gradients of their weights to those of microbatches
        before where they compute them; after wrapping, which makes the buffers.

        Core's ``gradient_accumulation_fusion`` asks it of all layers of a module, and its own need
        APEX for it; TransformerEngine's layers do not, nor on GPUs does torch.
        """
        for name in self.nodes:
            module = self.active(name)
            if isinstance(module, DistributedDataParallel):
                for layer in module.modules():
                    # A weight that is put together of several parameters has no buffer.
                    whole = len(getattr(layer, "weight_names", ("weight",))) == 1
                    if whole and hasattr(layer, "fuse_wgrad_accumulation"):
                        layer.fuse_wgrad_accumulation = True
                        # Else it writes over the buffer in a step's first microbatch, and a layer
                        # that is used twice in it would lose a gradient.
                        layer.disable_parameter_transpose_cache = True
                    elif platform.name == "cuda" and hasattr(layer, "gradient_accumulation_fusion"):
                        add_up(layer)
                    elif isinstance(layer, VocabParallelEmbedding):
                        add_rows(layer)

    def overlap_reduction(self) -> None:
        """Reduce gradients during backward; after wrapping with ``overlap_grad_reduce``."""
        for name in self.nodes:
            module = self.active(name)
            if isinstance(module, DistributedDataParallel):
                self.reductions[name] = OrderedBucketReducer(module)

    def train(self, mode: bool = True) -> RankMimoModel:
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self

    # Steps
    def encode(
        self,
        name: str,
        inputs: dict[str, Any] | None,
        features: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Rows ``[N, H]`` of one microbatch, or this stage's activations.

        Args:
            name: An encoder of this rank.
            inputs: The module's batch; ``None`` where there is nothing to encode, which gives no
                rows.
            features: What its tower has put out for it already.
        """
        if inputs is not None:
            self._check_keys(name, inputs)
        batch = None if inputs is None else {name: {TOWER: inputs}}
        if features is not None:
            batch = {name: {FEATURES: features}}
        received = getattr(self, "input_tensors", None) or {}
        if "encoder" in self.nodes[name].freeze:
            # No gradient travels between stages whose layers do not learn.
            received = {source: tensor.detach() for source, tensor in received.items()}
        outputs = self._forward_encoders(None, batch, received)
        return outputs[name]  # type: ignore[no-any-return]

    def _check_keys(self, name: str, inputs: Mapping[str, Any]) -> None:
        """Compare a batch's keys with the arguments of the tower's forward.

        Raises:
            PluginError: they do not fit.
        """
        container = self.bare(name)
        assert isinstance(container, EncoderSubmodule)
        later = {} if container.is_first_stage else {"hidden_states": None}
        try:
            inspect.signature(container.tower.forward).bind(**inputs, **later)
        except TypeError as error:
            tower = type(container.tower).__name__
            raise PluginError(
                f"{titled(self.nodes[name])}, hook 'provide_batch' returned a batch with keys "
                f"{', '.join(inputs) or '(none)'}, which do not fit the forward of {tower} (hook "
                f"'build_submodule'): {error}",
                code="plugin.wrong-batch",
                module=name,
                keys=tuple(inputs),
                tower=tower,
            ) from error

    def logits(
        self,
        inputs: Mapping[str, torch.Tensor],
        packing: dict[str, Any] | None = None,
        *,
        rows: Mapping[str, torch.Tensor] | None = None,
        places: ScatterIndices | None = None,
        own: torch.Tensor | None = None,
        padding: torch.Tensor | None = None,
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Logits ``[B, S / cp, V / tp]`` on the last stage, activations by module on others.

        Args:
            inputs: The module's batch on its first and last stage, else nothing; whole rows.
            packing: What :func:`~mimo_core.model.packing.packing_kwargs` gives, where samples lie
                end to end.
            rows: Rows ``[N, H]`` of the encoders on this rank; by default what was received.
            places: Where the rows go; on the first stage.
            own: This rank's positions of the sequences, with context parallelism.
            padding: True where a position of a whole row is padding, bool ``[B, S]``; models with
                experts need it on all stages.

        Raises:
            PluginError: the language model returned something else.
        """
        self._places = places or {}
        if self.routers is not None:
            self.routers.set_padding(self._here(padding, own))
        if self.partition_adapter is not None:
            self.partition_adapter.own = own
        given = {"input_ids": None, "position_ids": None, "attention_mask": None, **inputs}
        received = getattr(self, "input_tensors", None) if rows is None else rows
        # Labels and mask are the forward step's.
        given |= {"labels": None, "loss_mask": None}
        output, _ = self._forward_language_module(
            **given, input_tensors=received, packing_kwargs=packing
        )
        model = type(self.bare(LANGUAGE)).__name__
        where = f"{titled(self.nodes[LANGUAGE])}, hook 'build_submodule': the forward of {model}"
        if self.role.is_last_stage(LANGUAGE):
            return check_output(output, (3,), "logits [B, S, vocabulary]", where)
        due = "hidden states [S, B, H] from a pipeline stage before the last"
        check_output(output[LANGUAGE], (3,), due, where)
        return output  # type: ignore[no-any-return]

    def _here(self, whole: torch.Tensor | None, own: torch.Tensor | None) -> torch.Tensor | None:
        """Of whole rows ``[B, S]``, the positions between this rank's layers: ``[B, S / cp]``, or
        ``[B, S / (cp tp)]`` with sequence parallelism."""
        if whole is None:
            return None
        here = whole if own is None else whole.index_select(1, own)
        tp = self.groups[LANGUAGE].tp
        if get_model_config(self.bare(LANGUAGE)).sequence_parallel:
            here = here.chunk(tp.size(), dim=1)[tp.rank()].contiguous()
        return here

    def get_text_embeddings(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor | None, special_token_ids: Any
    ) -> torch.Tensor:
        """Embeddings ``[S, B, H]`` of all ids; those of placeholders are written over.

        Raises:
            PluginError: the language model's embedding shares positions by itself.
        """
        embedding: Any = self.bare(LANGUAGE).embedding
        adapter = self.partition_adapter
        shares = getattr(embedding, "scatter_to_sequence_parallel", False)
        if adapter is not None and adapter.cfg.seq_parallel and shares:
            raise PluginError(
                f"module {LANGUAGE!r} scatters its embeddings over tensor-parallel ranks before "
                "the rows of encoders are in their places; build it with "
                "scatter_embedding_sequence_parallel=False",
                code="plugin.wrong-answer",
                module=LANGUAGE,
                hook="build_submodule",
                field="scatter_embedding_sequence_parallel",
            )
        return embedding(input_ids=input_ids, position_ids=position_ids)  # type: ignore[no-any-return]

    def align_embeddings_by_token_positions(
        self, modality_embeddings: dict[str, torch.Tensor], *_: Any, **__: Any
    ) -> torch.Tensor:
        """Embeddings ``[S, B, H]`` of whole sequences, rows of encoders in their places."""
        rows = dict(modality_embeddings)
        return scatter_embeddings(rows.pop("text"), rows, self._places)

    def losses(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Losses ``[B, S / cp]`` of labels ``[B, S / cp]`` from logits ``[B, S / cp, V / tp]``."""
        bare = self.bare(LANGUAGE)
        return bare.compute_language_model_loss(  # type: ignore[no-any-return, operator]
            labels, logits.transpose(0, 1).contiguous()
        )

    # Checkpoints
    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None
    ) -> dict[str, Any]:
        """This rank's sharded state; checkpoint keys without wrappers, local keys with them."""
        found: dict[str, Any] = {}
        for name, groups in self.groups.items():
            own = {**(metadata or {}), "dp_cp_group": groups.dp_cp}
            clean, wrapped = self._key_prefixes(name, prefix)
            state = self.bare(name).sharded_state_dict(clean, sharded_offsets, own)  # type: ignore[operator]
            found |= {wrapped + key.removeprefix(clean): value for key, value in state.items()}
        return found

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load, strictly whatever ``strict`` says.

        The stock loop retries a strict load that failed with ``strict=False`` and only prints what
        is missing; a run must not go on with half of its weights. TransformerEngine's extra states
        may be absent: they hold no weights.
        """
        result = super().load_state_dict(state_dict, strict=False, assign=assign)
        missing = [key for key in result.missing_keys if not key.endswith("_extra_state")]
        unexpected = [key for key in result.unexpected_keys if not key.endswith("_extra_state")]
        if missing or unexpected:
            raise CheckpointError(
                f"the checkpoint does not fit {self._told()}: it lacks {missing}, "
                f"and has {unexpected} that the model has not; load it with the recipe it was "
                "saved with",
                code="checkpoint.other-model",
                modules=tuple(self.nodes),
                missing=tuple(missing),
                unexpected=tuple(unexpected),
            )
        return result

    def _told(self) -> str:
        return f"module{'s' if len(self.nodes) > 1 else ''} {', '.join(map(repr, self.nodes))}"

    def _key_prefixes(self, name: str, prefix: str) -> tuple[str, str]:
        clean = prefix + module_prefix(name)
        return clean, clean + "module." * _depth(self.active(name))


def _depth(module: torch.nn.Module) -> int:
    """Wrappers around the bare module."""
    bare, depth = unwrap_model(module), 0
    while module is not bare:
        module, depth = module.module, depth + 1  # type: ignore[assignment]
    return depth
