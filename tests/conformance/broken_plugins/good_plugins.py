"""Plugins that the kit has nothing to say against; the faults change one thing of them.

Nothing here imports torch at import.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np

from mimo_core import (
    LANGUAGE,
    CheckpointTensor,
    Edge,
    FlopsEstimate,
    MediaItem,
    ModuleDescription,
    ParameterSpec,
    ParamMapping,
    ParamMappings,
    Sample,
    Text,
    hookimpl,
)
from mimo_core.testing import Subject

# What builds is imported by the hooks, on ranks too.
sys.path.insert(0, str(Path(__file__).parent))


@attrs.frozen(kw_only=True)
class Options:
    """Of the encoder."""

    hidden_size: int = 16
    """Width of the tower."""
    patch_size: int = 8
    """Side of a patch in pixels."""


def rows(shape: tuple[int, ...], side: int) -> int:
    return (shape[0] // side) * (shape[1] // side)


def description(module: Any, **changes: Any) -> ModuleDescription:
    width, side = module.options.hidden_size, module.options.patch_size
    told = ModuleDescription(
        hidden_size=width,
        num_layers=1,
        num_attention_heads=2,
        parameters=(
            ParameterSpec(num_parameters=(3 * side**2 + 1) * width),
            ParameterSpec(num_parameters=4 * width**2, sharded_over=frozenset({"tp"})),
            ParameterSpec(
                num_parameters=width * module.language_width,
                component="projector",
                sharded_over=frozenset({"tp"}),
                layer="last",
            ),
        ),
        modality="image",
        count_positions=lambda media: [rows(medium.shape, side) for medium in media],
        supported_parallelism=frozenset({"tp", "dp"}),
    )
    return attrs.evolve(told, **changes)


def told(each: float, *, projector: float = 2.0) -> Any:
    """The hook ``estimate_flops``, of so many operations for each weight and row."""

    @hookimpl
    def estimate_flops(module, samples):
        width, side = module.options.hidden_size, module.options.patch_size
        media = [one for sample in samples for one in sample.media("image")]
        count = sum(rows(one.shape, side) for one in media)
        return [
            FlopsEstimate(weight_matmul=each * count * (3 * side**2 + 4 * width) * width),
            FlopsEstimate(
                component="projector",
                weight_matmul=projector * count * width * module.language_width,
            ),
        ]

    return estimate_flops


def weights(module: Any) -> ParamMappings:
    width, patch = module.options.hidden_size, 3 * module.options.patch_size**2
    shapes = {
        "embed.weight": (width, patch),
        "embed.bias": (width,),
        "up.weight": (2 * width, width),
        "down.weight": (width, 2 * width),
    }
    tower = [
        ParamMapping(
            component="encoder",
            tensors=(CheckpointTensor(key=key, shape=shape),),
            files={key: shape},
        )
        for key, shape in shapes.items()
    ]
    shape = (module.language_width, width)
    projector = ParamMapping(
        component="projector",
        tensors=(CheckpointTensor(key="encoder.weight", shape=shape),),
        files={"projector.weight": shape},
    )
    return ParamMappings(rules=(*tower, projector))


def encoder(**changes: Any) -> SimpleNamespace:
    """An encoder of pictures; ``changes`` replace hooks (``None`` removes one)."""

    @hookimpl
    def options_class():
        return Options

    @hookimpl
    def describe_module(module):
        return description(module)

    @hookimpl
    def module_edges(module, modules):
        return [Edge(source=module.name, target=LANGUAGE, placeholder=f"<{module.name}>")]

    @hookimpl
    def rng_prefix(module):
        return f"{module.name}."

    estimate_flops = told(2.0)

    @hookimpl
    def param_mappings(module):
        return weights(module)

    @hookimpl
    def build_submodule(module, groups, platform):
        import good_tower

        return good_tower.encoder(module, groups)

    @hookimpl
    def provide_batch(module, samples, context):
        import good_tower

        arrays = context.decode_media(samples)
        return good_tower.batch(module, arrays) if arrays else None

    return _plugin("good-encoder", locals(), changes)


class Pictures:
    """Sixteen pictures and what they show."""

    def __init__(self, split: str) -> None:
        self.split = split

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Sample:
        return Sample(key=f"{self.split}/{index}", content=(self.medium(index), self.text(index)))

    def text(self, index: int) -> Text:
        return Text(text="x" * (index + 1), is_target=True)

    def medium(self, index: int) -> MediaItem:
        return MediaItem(modality="image", shape=(4, 6), load=Load(index))


@attrs.frozen
class Load:
    """Makes a picture."""

    index: int

    def __call__(self, generator: np.random.Generator | None) -> np.ndarray:
        return np.full((4, 6, 3), self.index, dtype=np.uint8)


def dataset(made: Any = Pictures, **changes: Any) -> SimpleNamespace:
    """A dataset of pictures."""

    @hookimpl
    def build_dataset(data, split):
        return made(split)

    @hookimpl
    def preview_samples(data):
        return [Pictures("train")[15]]

    return _plugin("good-dataset", locals(), changes | {"made": None})


def wrapper() -> SimpleNamespace:
    """Adds a scale to the tower's rows."""

    @hookimpl(wrapper=True)
    def build_submodule(module, groups, platform):
        import good_wrapper

        parts = yield
        return good_wrapper.scaled(parts)

    @hookimpl(wrapper=True)
    def param_mappings(module):
        given = yield
        stored = CheckpointTensor(key="scale", shape=(1,))
        scale = ParamMapping(component="encoder", tensors=(stored,), files={"scale": (1,)})
        return attrs.evolve(given, rules=(*given.rules, scale))

    return _plugin("good-wrapper", locals(), {})


def _plugin(name: str, functions: dict[str, Any], changes: dict[str, Any]) -> SimpleNamespace:
    hooks = {key: hook for key, hook in functions.items() if key != "changes"} | changes
    made = {"mimo_contract": "1.0", "__name__": name} | hooks
    return SimpleNamespace(**{key: value for key, value in made.items() if value is not None})


class Renamed:
    """The samples of another dataset under other keys."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> Sample:
        sample = self.inner[index]
        return attrs.evolve(sample, key=f"renamed/{sample.key}")


def data_wrapper() -> SimpleNamespace:
    """Gives samples other keys."""

    @hookimpl(wrapper=True)
    def build_dataset(data, split):
        return Renamed((yield))

    return _plugin("good-data-wrapper", locals(), {})


class GoodEncoder(Subject):
    plugin = encoder()
    kind = "encoder"


class GoodDataset(Subject):
    plugin = dataset()
    kind = "dataset"


class GoodWrapper(Subject):
    plugin = wrapper()
    kind = "wrapper"
    wraps = GoodEncoder


class GoodDataWrapper(Subject):
    plugin = data_wrapper()
    kind = "wrapper"
    wraps = GoodDataset
