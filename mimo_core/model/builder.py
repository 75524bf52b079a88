"""Builds and wraps the module that is active on this rank, through megatron's ``ModelBuilder``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.models.mimo.config import MimoModelConfig
from megatron.core.process_groups_config import MultiModuleProcessGroupCollection
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.training.models.base import ModelBuilder, ModelConfig
from megatron.training.models.dist_utils import (
    prepare_existing_model_chunks_for_distributed_training,
)

from mimo_core.checkpoint.manifest import Manifest
from mimo_core.checkpoint.reader import Checkpoint
from mimo_core.contract import LANGUAGE, EncoderSpec, ModuleConfig
from mimo_core.distributed.process_groups import Topology
from mimo_core.distributed.seeding import seed_module
from mimo_core.errors import MimoError, PluginError
from mimo_core.megatron_patches.meta_device import patch_meta_materialization
from mimo_core.megatron_patches.recompute import patch_recompute_bias_output
from mimo_core.model.cuda_graphs import layers
from mimo_core.model.cuda_graphs.encoder import TowerGraphs, asked_for
from mimo_core.model.cuda_graphs.layers import capture_layers, check_parts
from mimo_core.model.encoder_module import EncoderSubmodule, container_spec
from mimo_core.model.loss import fuse_loss
from mimo_core.model.mimo_model import RankMimoModel
from mimo_core.model.moe.routers import Routers, check_encoder, check_packing
from mimo_core.model.platform_config import drop_unsupported_fields
from mimo_core.model.precision import MixedPrecisionModule, check_statistics
from mimo_core.planning.model_graph import Graph
from mimo_core.planning.plugin_answers import titled
from mimo_core.platforms.base import RankPlatform
from mimo_core.plugins import Host
from mimo_core.weights.compare import DirectoryMatch
from mimo_core.weights.frozen_sources import WeightSources, keys_at, origins_of
from mimo_core.weights.load import load_left_out, load_weights
from mimo_core.weights.pretrained import weight_map


@dataclass(kw_only=True)
class BuildConfig(ModelConfig):
    """What the builder needs: no parsed arguments."""

    builder: ClassVar[str] = "mimo_core.model.builder.Builder"

    host: Host
    graph: Graph
    topology: Topology
    platform: RankPlatform
    seed: int
    submodules: Mapping[str, EncoderSpec | ModuleSpec] = field(init=False)
    """What the plugins gave, by module; asked once a rank."""
    weights: Mapping[str, DirectoryMatch] = field(default_factory=dict)
    """Directories whose weights modules begin with, or read again."""
    saved: Manifest | None = None
    """Of the checkpoint that is loaded into the model; what it leaves out is read here."""
    origins: WeightSources | None = None
    """Where weights that do not learn are read again; ``None`` where all are saved."""

    def __post_init__(self) -> None:
        self.submodules = {name: self._ask(module) for name, module in self.graph.modules.items()}

    @property
    def modules(self) -> dict[str, ModuleConfig]:
        """The modules of this rank."""
        return {name: self.graph.modules[name] for name in self.topology.groups}

    def config_of(self, name: str) -> Any:
        """A module's ``TransformerConfig``."""
        parts = self.submodules[name]
        return parts.config if isinstance(parts, EncoderSpec) else parts.params["config"]

    def loaded_later(self, name: str) -> bool:
        """Whether a module is built without values, on the meta device."""
        return bool(self.config_of(name).init_model_with_meta_device)

    @contextmanager
    def building(self, name: str) -> Iterator[None]:
        """A module of this rank is built in this: from its seed, on its device."""
        seed_module(self.seed, self.graph.rng_prefixes[name], self.topology.groups[name])
        with torch.device("meta") if self.loaded_later(name) else nullcontext():
            yield

    def _ask(self, module: ModuleConfig) -> EncoderSpec | ModuleSpec:
        groups = self.topology.groups.get(module.name)
        parts = self.host.call_hook(
            "build_submodule",
            module.plugin,
            module=drop_unsupported_fields(module, self.platform),
            groups=groups,
            platform=self.platform,
        )
        expected = ModuleSpec if module.name == LANGUAGE else EncoderSpec
        if not isinstance(parts, expected):
            raise PluginError(
                f"plugin {module.plugin!r}: build_submodule for module {module.name!r} gave "
                f"{type(parts).__name__}, expected {expected.__name__}",
                code="plugin.wrong-answer",
                plugin=module.plugin,
                hook="build_submodule",
                module=module.name,
                type=type(parts).__name__,
                expected=expected.__name__,
            )
        return parts


class Builder(ModelBuilder[RankMimoModel, BuildConfig]):
    """Called by the stock loop on every rank."""

    def build_model(
        self,
        pg_collection: MultiModuleProcessGroupCollection,
        pre_process: bool | None = None,
        post_process: bool | None = None,
        vp_stage: int | None = None,
    ) -> RankMimoModel:
        """This rank's model, unwrapped, its frozen parts frozen."""
        config: BuildConfig = self._model_config  # type: ignore[assignment]
        graph, topology = config.graph, config.topology
        width = graph.descriptions[LANGUAGE].hidden_size
        patch_recompute_bias_output()
        if LANGUAGE in topology.groups:
            language = config.config_of(LANGUAGE)
            fuse_loss(language, graph.modules[LANGUAGE], config.platform)
            capture_layers(language, topology.groups[LANGUAGE], config.platform)
        captured = [n for n, module in config.modules.items() if asked_for(module, config.platform)]
        if captured:
            layers.prepare_generators(config.platform)
        encoders = {}
        for name in graph.encoders:
            parts = config.submodules[name]
            assert isinstance(parts, EncoderSpec)
            encoders[name] = container_spec(
                parts,
                topology.groups.get(name),
                width,
                graph.descriptions[name].hidden_size,
                titled(graph.modules[name]),
            )
        model = RankMimoModel(
            MimoModelConfig(
                language_model_spec=config.submodules[LANGUAGE],
                modality_submodules_spec=encoders,
                special_token_ids={
                    name: graph.tokenizer.placeholder_id(graph.edge_of(name).placeholder)
                    for name in graph.encoders
                },
                module_to_grid_map=dict(topology.grids),
            ),
            modules=config.modules,
            groups=topology.groups,
            building=config.building,
        )
        model.freeze()
        _adapt_routers(model, config)
        for name in captured:
            _capture_tower(model, name, config.platform)
        if LANGUAGE in topology.groups:
            check_parts(config.config_of(LANGUAGE), model.active(LANGUAGE))
        return model

    def build_distributed_models(
        self,
        pg_collection: MultiModuleProcessGroupCollection,
        ddp_config: DistributedDataParallelConfig | None = None,
        overlap_param_gather_with_optimizer_step: bool = False,
        use_megatron_fsdp: bool = False,
        use_torch_fsdp2: bool = False,
        wrap_with_ddp: bool = True,
        data_parallel_random_init: bool = False,
        mixed_precision_wrapper: Callable[..., Any] | None = None,
        model_type: Any = None,
    ) -> list[RankMimoModel]:
        """The model with its modules wrapped: mixed precision, then distributed data parallel."""
        config: BuildConfig = self._model_config  # type: ignore[assignment]
        model = self.build_model(pg_collection)
        patch_meta_materialization()
        for name in config.modules:
            if config.loaded_later(name):
                _check_all_is_loaded(model, name)
            settings = config.config_of(name)
            check_statistics(name, model.active(name), settings.params_dtype)
            (wrapped,) = prepare_existing_model_chunks_for_distributed_training(
                [model.active(name)],
                settings,
                model.groups[name],
                ddp_config=ddp_config,
                wrap_with_ddp=wrap_with_ddp,
                mixed_precision_wrapper=MixedPrecisionModule,
            )
            model.replace(name, wrapped)
        model.accumulate_in_products(config.platform)
        if ddp_config is not None and ddp_config.overlap_grad_reduce:
            model.overlap_reduction()
            # Core's loop looks for the outermost wrapper, which is inside here.
            config.config_of(LANGUAGE).no_sync_func = model.no_sync
        if config.weights:
            # Into tensors of their final type (the router's bias is float32 in a bf16 model), and
            # before the optimizer makes its main parameters from them.
            modules = {name: config.graph.modules[name] for name in config.weights}
            maps = {name: weight_map(config.host, module) for name, module in modules.items()}
            loaded = load_weights(model.sharded_state_dict(), maps, config.weights)
            if config.origins is not None:
                config.origins.loaded = loaded
        for origin in origins_of(config.saved) if config.saved else ():
            if config.saved and origin.kind == "checkpoint":
                keys, source = keys_at(config.saved, origin), Checkpoint(Path(origin.path))
                load_left_out(model.sharded_state_dict(), source, keys)
        return [model]


def _adapt_routers(model: RankMimoModel, config: BuildConfig) -> None:
    """Have experts' routers count the positions of samples; once what is frozen is."""
    for name, groups in model.groups.items():
        bare, settings = model.bare(name), config.config_of(name)
        if name != LANGUAGE:
            check_encoder(name, bare, settings)
            continue
        model.routers = Routers(bare, settings, groups, config.platform.device)
        if len(model.routers) and config.graph.modules[LANGUAGE].packing:
            check_packing(settings)


def _capture_tower(model: RankMimoModel, name: str, platform: RankPlatform) -> None:
    """Have batches of shapes that come often replayed; once what is frozen is."""
    container = model.bare(name)
    assert isinstance(container, EncoderSubmodule) and container.tower_is_fixed
    container.graphs = TowerGraphs(
        container.encoded,
        capture=partial(layers.capture, platform),
        device=platform.device,
        module=name,
        tower=container.tower,
    )


def _check_all_is_loaded(model: RankMimoModel, module: str) -> None:
    """A checkpoint gives values to what is in it alone.

    Raises:
        MimoError: buffers that no checkpoint holds have none.
    """
    bare = model.bare(module)
    saved = bare.state_dict()
    lost = [name for name, buffer in bare.named_buffers() if buffer.is_meta and name not in saved]
    if lost:
        raise MimoError(
            f"module {module!r} cannot be built on the meta device: no checkpoint holds its "
            f"buffers {', '.join(lost)}; leave init_model_with_meta_device out for it",
            code="megatron.refused-value",
            module=module,
            field="init_model_with_meta_device",
            buffers=tuple(lost),
        )
