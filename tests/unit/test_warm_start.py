"""What a new run starts with is known before a rank is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import pytest

from mimo_core import ModuleDescription, ParameterSpec, hookimpl
from mimo_core.checkpoint.compatibility import find_resumable_checkpoint
from mimo_core.checkpoint.directory import TRACKER
from mimo_core.checkpoint.manifest import read_manifest, write_manifest
from mimo_core.errors import RecipeError
from mimo_core.planning.plan import Plan, make_plan
from mimo_core.plugins import Host
from mimo_core.plugins.weight_map import CheckpointTensor, ParamMapping, ParamMappings
from mimo_core.recipe.converter import plain
from mimo_core.reporting.run_directory import RunDirectory
from mimo_core.weights.warm_start import starting_weights

from ..helpers.fake_plugins import RECIPE, eye, host, words
from ..helpers.problems import refused
from .test_checkpoint_directory import checkpoint, manifest, save


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A run folder with a checkpoint of iteration 3."""
    folder = tmp_path / "run"
    recipe = plain(plan(tmp_path).recipe)
    checkpoint(folder / "checkpoints", 3, recipe=recipe)
    (folder / "checkpoints" / TRACKER).write_text("3")
    return folder


def plan(folder: Path, *overrides: str) -> Plan:
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE)
    return make_plan(recipe, overrides, host=host())


def test_a_run_folder_says_where_its_checkpoints_are(saved: Path, tmp_path: Path) -> None:
    (saved / "checkpoints").rename(tmp_path / "elsewhere")
    directory = f"checkpoint: {{directory: {tmp_path / 'elsewhere'}}}\n"
    (saved / "recipe.yaml").write_text(RECIPE + directory)
    found = starting_weights(plan(tmp_path, f"checkpoint.init_from={saved}"), done=None)
    assert found is not None
    assert found.path == tmp_path / "elsewhere" / "iter_0000003"


def test_a_run_folder_or_its_checkpoints_can_be_named(saved: Path, tmp_path: Path) -> None:
    for given in (saved, saved / "checkpoints"):
        found = starting_weights(plan(tmp_path, f"checkpoint.init_from={given}"), done=None)
        assert found is not None and found.path == saved / "checkpoints" / "iter_0000003"
    assert starting_weights(plan(tmp_path), done=None) is None


@pytest.mark.parametrize(
    "changed",
    [
        "train.global_batch_size=16",
        "train.learning_rate=2e-3",
        "train.seed=9",
        "modules.vision.options.patch_size=16",
    ],
)
def test_what_a_run_stands_on_stays(saved: Path, tmp_path: Path, changed: str) -> None:
    key, _, value = changed.partition("=")
    with refused("checkpoint.other-model", RecipeError, iteration=3) as caught:
        find_resumable_checkpoint(plan(tmp_path, changed), RunDirectory(saved))
    (difference,) = caught.value.values["differences"]
    assert re.match(rf"{key}: saved with \S+, now {float(value):g}", difference)


def test_what_all_modules_compute_stays(saved: Path, tmp_path: Path) -> None:
    differences = tuple(
        f"modules.{name}.megatron.softmax_type: saved with None, now learnable"
        for name in ("vision", "language")
    )
    with refused("checkpoint.other-model", RecipeError, differences=differences):
        find_resumable_checkpoint(
            plan(tmp_path, "megatron.softmax_type=learnable"), RunDirectory(saved)
        )


@pytest.mark.parametrize(
    "changed",
    [
        "modules.language.megatron={recompute_granularity: selective}",
        "modules.language.megatron={moe_permute_fusion: false, cuda_graph_impl: none}",
        "modules.language.megatron={cpu_offloading: true, cpu_offloading_num_layers: 1}",
        "megatron.attention_backend=unfused",
        "modules.vision.options.threads=4",
    ],
)
def test_how_a_module_is_computed_may_change(saved: Path, tmp_path: Path, changed: str) -> None:
    assert find_resumable_checkpoint(plan(tmp_path, changed), RunDirectory(saved)).iteration == 3


def test_modules_that_are_not_in_both_are_named(saved: Path, tmp_path: Path) -> None:
    path = saved / "checkpoints" / "iter_0000003"
    recipe = plain(plan(tmp_path).recipe)
    recipe["modules"]["audio"] = recipe["modules"].pop("vision")
    layout = manifest(3).layout
    modules = {"audio": layout["modules"]["vision"], "language": layout["modules"]["language"]}
    save(path, attrs.evolve(manifest(3), recipe=recipe, layout={**layout, "modules": modules}))
    with refused("checkpoint.other-model", RecipeError) as caught:
        find_resumable_checkpoint(plan(tmp_path), RunDirectory(saved))
    assert set(caught.value.values["differences"]) == {
        "modules.audio: only in the checkpoint",
        "modules.vision: only in the recipe",
    }


@pytest.mark.parametrize(
    ("saved_with", "now", "said"),
    [
        ({"a": {}}, {}, "modules.vision.wrappers.a: only in the checkpoint"),
        ({}, {"a": {}}, "modules.vision.wrappers.a: only in the recipe"),
        ({"a": {"n": 1}}, {"a": {"n": 2}}, "modules.vision.wrappers.a.n: saved with 1, now 2"),
        ({"a": {}, "b": {}}, {"b": {}, "a": {}}, "saved in the order a, b, now b, a"),
        ({"a": {}}, {"a": {}}, None),
        (None, {}, None),
    ],
)
def test_a_module_goes_on_in_the_same_wrappers(
    saved: Path, tmp_path: Path, saved_with: Any, now: Any, said: str | None
) -> None:
    """``None``: saved by a version that did not know the key."""
    path = saved / "checkpoints" / "iter_0000003"
    wanted = plan(tmp_path)
    recipe = plain(wanted.recipe)
    recipe["modules"]["vision"].pop("wrappers")
    if saved_with is not None:
        recipe["modules"]["vision"]["wrappers"] = saved_with
    save(path, attrs.evolve(manifest(3), recipe=recipe))
    wanted.recipe.modules["vision"].wrappers.update(now)
    if said is None:
        assert find_resumable_checkpoint(wanted, RunDirectory(saved)).iteration == 3
        return
    with refused("checkpoint.other-model", RecipeError) as caught:
        find_resumable_checkpoint(wanted, RunDirectory(saved))
    (difference,) = caught.value.values["differences"]
    assert said in difference


def test_a_module_has_one_source_of_weights_and_a_moved_base_its_new_place(
    saved: Path, tmp_path: Path
) -> None:
    both = ("modules.vision.pretrained_weights=moved", f"checkpoint.init_from={saved}")
    with refused("recipe.conflict", RecipeError) as caught:
        starting_weights(plan(tmp_path, *both), done=None)
    assert caught.value.path == ("modules", "vision", "pretrained_weights")
    origin = {"kind": "directory", "path": "/run/old", "digest": "", "module": "vision"}
    path = saved / "checkpoints" / "iter_0000003"
    write_manifest(path, attrs.evolve(read_manifest(path), origins=(origin,)))
    assert starting_weights(plan(tmp_path, *both), done=None) is not None


@pytest.mark.parametrize(
    ("like", "said"),
    [
        ("new", None),
        ("old", None),
        ("other", "options.like: saved with new, now other"),
    ],
)
def test_options_that_name_a_directory_move_with_it(
    saved: Path, tmp_path: Path, like: str, said: str | None
) -> None:
    path = saved / "checkpoints" / "iter_0000003"
    wanted = plan(tmp_path, "modules.vision.pretrained_weights=new")
    recipe = plain(plan(tmp_path, "modules.vision.pretrained_weights=old").recipe)
    recipe["modules"]["vision"]["options"]["like"] = "old"
    origin = {"kind": "directory", "path": "/run/old", "digest": "", "module": "vision"}
    save(path, attrs.evolve(manifest(3), recipe=recipe, origins=(origin,)))
    wanted.recipe.modules["vision"].options["like"] = like
    if said is None:
        assert find_resumable_checkpoint(wanted, RunDirectory(saved)).iteration == 3
        return
    with refused("checkpoint.other-model", RecipeError) as caught:
        find_resumable_checkpoint(wanted, RunDirectory(saved))
    (difference,) = caught.value.values["differences"]
    assert said in difference


LAYOUT = ("modules.vision.grid.dp=1", "modules.language.precision=bf16")


def test_layout_and_precision_may_change_where_the_optimizer_can_be_resharded(
    saved: Path, tmp_path: Path
) -> None:
    run = RunDirectory(saved)
    for changed in (
        (),
        LAYOUT,
        (
            "train.micro_batch_size=2",
            "modules.vision.grid.rank_offset=4",
            "modules.language.grid.rank_offset=0",
        ),
    ):
        assert find_resumable_checkpoint(plan(tmp_path, *changed), run).iteration == 3
    path = saved / "checkpoints" / "iter_0000003"
    bound = attrs.evolve(read_manifest(path), optimizer="dp_reshardable")
    write_manifest(path, bound)
    assert find_resumable_checkpoint(plan(tmp_path), run).iteration == 3
    with pytest.raises(RecipeError) as caught:
        find_resumable_checkpoint(plan(tmp_path, *LAYOUT), run)
    assert caught.value.code == "checkpoint.other-model"
    first, second = caught.value.values["differences"]
    bound = "(saved with megatron.dist_ckpt_optim_fully_reshardable: false)"
    assert first == f"modules.vision.grid.dp: saved with 2, now 1 {bound}"
    assert second == f"modules.language.precision: saved with None, now bf16 {bound}"


def test_a_run_that_goes_on_has_its_weights(tmp_path: Path) -> None:
    gone = plan(tmp_path, f"checkpoint.init_from={tmp_path / 'gone'}")
    assert starting_weights(gone, done=2) is None
    meta = plan(tmp_path, "modules.vision.megatron.init_model_with_meta_device=true")
    assert starting_weights(meta, done=2) is None


def test_a_place_without_a_checkpoint_is_refused(saved: Path, tmp_path: Path) -> None:
    with refused("checkpoint.not-found", RecipeError) as caught:
        starting_weights(plan(tmp_path, f"checkpoint.init_from={tmp_path / 'gone'}"), done=None)
    assert caught.value.path == ("checkpoint", "init_from")
    next(saved.rglob("*.distcp")).write_bytes(b"")
    with refused("checkpoint.incomplete", RecipeError) as caught:
        starting_weights(plan(tmp_path, f"checkpoint.init_from={saved}"), done=None)
    assert re.search(r"\n.*iter_0000003 .*: __0_0", caught.value.text)


@pytest.mark.parametrize("place", ["modules.vision.megatron", "megatron"])
def test_weights_without_values_are_refused(saved: Path, tmp_path: Path, place: str) -> None:
    meta = f"{place}.init_model_with_meta_device=true"
    with refused("recipe.conflict", RecipeError) as caught:
        starting_weights(plan(tmp_path, meta), done=None)
    assert caught.value.path[-2:] == ("megatron", "init_model_with_meta_device")
    begin = f"checkpoint.init_from={saved}"
    assert starting_weights(plan(tmp_path, meta, begin), done=None) is not None


def _with_map(shape: tuple[int, ...], *, index: tuple[int, ...] = ()) -> Any:
    rule = ParamMapping(
        component="language",
        tensors=(CheckpointTensor(key="layers.weight", shape=shape, index=index),),
        files={"weight": shape},
    )

    @hookimpl
    def param_mappings(module: Any) -> ParamMappings:
        return ParamMappings(rules=(rule,))

    return host(words=words(param_mappings=param_mappings))


def _start(folder: Path, tensors: dict[str, list[int]], of: Host) -> Any:
    saved = checkpoint(
        folder / "run" / "checkpoints",
        3,
        tensors={key: {"shape": shape, "dtype": "float32"} for key, shape in tensors.items()},
    )
    (saved.parent / TRACKER).write_text("3")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE)
    wanted = make_plan(recipe, [f"checkpoint.init_from={folder / 'run'}"], host=of)
    return starting_weights(wanted, done=None)


KEY = "language_model.layers.weight"


@pytest.mark.parametrize(
    ("tensors", "line"),
    [
        ({KEY: [6, 8, 4]}, None),
        ({KEY: [6, 8, 4], "mimo.language.optimizer.state.exp_avg.x": [1]}, None),
        ({KEY: [6, 8, 5]}, f"language: {KEY} [5] is [8, 5], but the recipe's is [8, 4]"),
        ({KEY: [5, 8, 4]}, f"language: lacks {KEY} [5]"),
        ({}, f"language: lacks {KEY} [5]"),
        ({KEY: [6, 8, 4], f"{KEY}2": [1]}, f"language: has {KEY}2, of which"),
    ],
)
def test_tensors_that_do_not_fit_the_map_are_refused_before_ranks(
    tmp_path: Path, tensors: dict[str, list[int]], line: str | None
) -> None:
    of = _with_map((8, 4), index=(5,))
    if line is None:
        assert _start(tmp_path, tensors, of) is not None
        return
    with refused("checkpoint.other-model", RecipeError, modules=("language",)) as caught:
        _start(tmp_path, tensors, of)
    assert caught.value.path == ("checkpoint", "init_from")
    assert f"\n  {line}" in caught.value.text


def test_without_a_map_what_plugins_describe_is_compared(saved: Path, tmp_path: Path) -> None:
    @hookimpl
    def describe_module(module: Any) -> ModuleDescription:
        size = module.options.patch_size
        return ModuleDescription(
            hidden_size=8,
            num_layers=4,
            num_attention_heads=8,
            parameters=(ParameterSpec(num_parameters=100 * size),),
            modality="image",
            count_positions=lambda media: [4] * len(media),
            supported_parallelism=frozenset({"tp", "dp"}),
        )

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    start = f"checkpoint.init_from={saved}"
    of = host(eye=eye(describe_module=describe_module))
    wanted = make_plan(recipe, [start, "modules.vision.options.patch_size=16"], host=of)
    with refused("checkpoint.other-model", RecipeError, modules=("vision",)) as caught:
        starting_weights(wanted, done=None)
    assert "\n  vision: num_parameters: saved with 1400, now 1600" in caught.value.text
    assert caught.value.values["differences"] == (
        "modules.vision.options.patch_size: saved with 14, now 16",
    )
    fits = make_plan(recipe, [start, "modules.vision.options.scale=2.0"], host=of)
    assert starting_weights(fits, done=None) is not None


def test_a_module_that_the_checkpoint_lacks_is_refused(tmp_path: Path) -> None:
    recipe = plain(plan(tmp_path).recipe)
    del recipe["modules"]["vision"]
    layout = manifest(3).layout
    layout = {**layout, "modules": {"language": layout["modules"]["language"]}}
    path = checkpoint(tmp_path / "run" / "checkpoints", 3, recipe=recipe, layout=layout)
    (path.parent / TRACKER).write_text("3")
    with refused("checkpoint.other-model", RecipeError) as caught:
        starting_weights(plan(tmp_path, f"checkpoint.init_from={tmp_path / 'run'}"), done=None)
    assert "\n  vision: the checkpoint does not have it" in caught.value.text
