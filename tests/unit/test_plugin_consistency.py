"""Plugins that answer otherwise on one rank are refused, each with its hook and both values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from mimo_core import MediaItem, Sample, Text, hookimpl
from mimo_core.contract import Edge, ModuleConfig, ModuleDescription, ParameterSpec, TrainingConfig
from mimo_core.data.batch_validation import check_answer
from mimo_core.errors import PluginError
from mimo_core.launch.plugin_consistency import compare_answers
from mimo_core.launch.rank_env import Rank
from mimo_core.planning.plan import Plan, make_plan
from mimo_core.planning.plugin_answers import as_text

from ..helpers.fake_plugins import RECIPE, EyeOptions, eye, host, pairs
from ..helpers.problems import refused

PICTURE = MediaItem(modality="image", shape=(8, 8), load=lambda generator: None)
SEEN = Sample(key="pairs/0", content=(PICTURE, Text(text="a cat", is_target=True)))


def describing(**changes: Any) -> Any:
    @hookimpl
    def describe_module(module):
        description = ModuleDescription(
            hidden_size=module.language_width // 2,
            num_layers=4,
            num_attention_heads=8,
            parameters=(ParameterSpec(num_parameters=632_000_000),),
            modality="image",
            count_positions=lambda media: [4] * len(media),
            supported_parallelism=frozenset({"tp", "dp"}),
            notes=("sees in grey",),
        )
        return attrs.evolve(description, **changes)

    return describe_module


@hookimpl
def other_prefix(module):
    return "odd."


@hookimpl
def other_edges(module, modules):
    return [Edge(source=module.name, target="language", placeholder="<odd>")]


@attrs.frozen(kw_only=True)
class OtherOptions:
    patch_size: int = 16
    scale: float = 2.0
    size: str = "base"
    widths: tuple[int, ...] = ()
    threads: int = 1


@hookimpl
def other_options():
    return OtherOptions


@hookimpl
def shown(data):
    return [SEEN]


@hookimpl
def other_text(data):
    return [attrs.evolve(SEEN, content=(PICTURE, Text(text="a dog!", is_target=True)))]


def plan_of(folder: Path, preview_samples: Any = shown, **hooks: Any) -> Plan:
    (folder / "recipe.yaml").write_text(RECIPE)
    plugins = host(eye=eye(**hooks), pairs=pairs(preview_samples=preview_samples))
    return make_plan(folder / "recipe.yaml", host=plugins)


VISION = "module 'vision' (plugin 'eye'), hook"
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "prefix": (
        {"rng_prefix": other_prefix},
        f"{VISION} 'rng_prefix': 'vision.' on rank 0, 'odd.' on rank 3",
    ),
    "edge": (
        {"module_edges": other_edges},
        f"{VISION} 'module_edges', placeholder: '<vision>' on rank 0, '<odd>' on rank 3",
    ),
    "option": (
        {"options_class": other_options},
        f"{VISION} 'options_class', scale: 1.0 on rank 0, 2.0 on rank 3",
    ),
    "number of the description": (
        {"describe_module": describing(num_layers=8)},
        f"{VISION} 'describe_module', num_layers: 4 on rank 0, 8 on rank 3",
    ),
    "weights of the description": (
        {"describe_module": describing(parameters=(ParameterSpec(num_parameters=7),))},
        f"{VISION} 'describe_module', parameters: [ParameterSpec(num_parameters=632000000",
    ),
    "note": (
        {"describe_module": describing(notes=())},
        f"{VISION} 'describe_module', notes: ['sees in grey'] on rank 0, [] on rank 3",
    ),
    "positions": (
        {"describe_module": describing(count_positions=lambda media: [5] * len(media))},
        f"{VISION} 'describe_module', positions of sample pairs/0: 4 on rank 0, 5 on rank 3",
    ),
    "text": (
        {"preview_samples": other_text},
        "data (plugin 'pairs'), hook 'preview_samples', text of sample pairs/0: 5 positions, 6 "
        "learned on rank 0, 6 positions, 7 learned on rank 3",
    ),
}


class Store(dict[str, str]):
    def set(self, key: str, value: str) -> None:
        self[key] = value

    def get(self, key: str) -> bytes:  # type: ignore[override]
        return self[key].encode()


def rank(number: int) -> Rank:
    return Rank(rank=number, local_rank=number, world_size=12)


@pytest.mark.parametrize("fault", FAULTS)
def test_one_rank_that_gets_another_answer_is_refused(fault: str, tmp_path: Path) -> None:
    hooks, told = FAULTS[fault]
    store: Any = Store()
    compare_answers(plan_of(tmp_path), rank(0), store)
    compare_answers(plan_of(tmp_path), rank(1), store)
    with refused("plugin.differs-by-rank", PluginError, rank=3) as caught:
        compare_answers(plan_of(tmp_path, **hooks), rank(3), store)
    assert told in caught.value.text
    assert all(place in caught.value.text for place in caught.value.values["places"])


def test_text_of_a_value_has_no_address_and_no_order_of_hashes() -> None:
    assert as_text(object()) == "object"
    assert as_text(lambda: None) == as_text(lambda: 1)
    assert as_text({"b", "a"}) == "{'a', 'b'}"
    assert as_text({"x": (1, None)}) == "{'x': [1, None]}"
    assert "0x" not in as_text(EyeOptions)


# The batch
GOOD = {key: SimpleNamespace(shape=(2, 8)) for key in ("input_ids", "labels", "loss_mask")}
GOOD["position_ids"] = GOOD["labels"]


def module_of(name: str, packing: bool = False) -> ModuleConfig:
    train = TrainingConfig(
        iterations=1, micro_batch_size=1, global_batch_size=1, sequence_length=8, learning_rate=1.0
    )
    return ModuleConfig(name=name, plugin="eye", grid=None, train=train, packing=packing)  # type: ignore[arg-type]


def checked(name: str, given: Any, packing: bool = False) -> Callable[[], None]:
    builder: Any = SimpleNamespace(rows=lambda encoder, sample: 4 * (sample is SEEN))
    return lambda: check_answer(module_of(name, packing), [SEEN], given, builder, "hook X")


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("vision", None, "samples have media for the module: pairs/0 (4 positions)"),
        ("language", None, "returned None; a language model's batch has input_ids, labels"),
        ("language", {**GOOD, "pixels": 1}, "has unknown keys 'pixels'; it has input_ids"),
        ("language", {k: v for k, v in GOOD.items() if k != "labels"}, "lacks labels"),
        (
            "language",
            {**GOOD, "labels": SimpleNamespace(shape=(2, 7))},
            "tensors of other shapes than each other",
        ),
    ],
)
def test_a_batch_that_does_not_fit_names_its_hook(name: str, given: Any, told: str) -> None:
    with pytest.raises(PluginError, match=r"^hook X returned") as caught:
        checked(name, given)()
    assert told in str(caught.value)


def test_a_batch_that_fits_is_taken() -> None:
    checked("language", {**GOOD, "attention_mask": None})()
    checked("vision", {})()
    with pytest.raises(PluginError, match="lacks lengths"):
        checked("language", GOOD, packing=True)()
