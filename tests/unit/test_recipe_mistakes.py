"""Every mistake of a recipe that is found before a rank starts, with its message."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from mimo_core import Edge, MediaItem, Sample, Text, hookimpl
from mimo_core.errors import MimoError
from mimo_core.planning.plan import make_plan
from mimo_core.recipe import builtin

from ..helpers.fake_plugins import RECIPE, eye, host, pairs, words
from ..helpers.problems import facts
from ..helpers.runs import start


@attrs.frozen(kw_only=True)
class Mistake:
    """A recipe with something wrong in it, and all problems that are reported."""

    of: str
    problems: list[tuple[str, str, dict[str, Any]]]
    replace: tuple[str, str] = ("", "")
    """A part of the recipe, and what stands in its place."""
    overrides: tuple[str, ...] = ()
    plugins: Mapping[str, object] = attrs.field(factory=dict)
    """In place of the recipe's usual ones."""
    started: int | None = None
    """Ranks that a launcher has started."""


def edges(target: str = "language", placeholder: str = "<{}>") -> object:
    """A hook whose every module feeds ``target``, by a placeholder made from the module's name."""

    @hookimpl
    def module_edges(module, modules):
        return [
            Edge(source=module.name, target=target, placeholder=placeholder.format(module.name))
        ]

    return module_edges


def shows(*parts: Text | MediaItem) -> object:
    """A dataset that shows one sample."""

    @hookimpl
    def preview_samples(data):
        return [Sample(key="pairs/7", content=parts)]

    return pairs(preview_samples=preview_samples)


PICTURE = MediaItem(modality="image", shape=(8, 8), load=lambda generator: None)
SOUND = MediaItem(modality="sound", shape=(9,), load=lambda generator: None)
SECOND_EYE = ("  language:\n", "  second: {plugin: eye}\n  language:\n")
SECOND_MODEL = ("  language:\n", "  second: {plugin: words}\n  language:\n")
STAR = "megatron-core 0.19's MimoModel gives encoders no other module's output"
MICROBATCH = "(micro_batch_size 1 x dp 2 of language)"
SHARES = "does not divide the 2 samples of a microbatch " + MICROBATCH
FOLLOW = "choose sizes where the second divides the first"
RECIPES = ", ".join(builtin.names())

MISTAKES = (
    # Keys and values
    Mistake(
        of="unknown key",
        replace=("tp: 2, dp: 2", "tp: 2, dq: 2"),
        problems=[
            (
                "recipe.unknown-key",
                "recipe.yaml:4: modules.vision.grid.dq",
                {"key": "dq", "nearest": "dp"},
            )
        ],
    ),
    Mistake(
        of="unknown section",
        overrides=("trian.seed=7",),
        problems=[
            (
                "recipe.unknown-key",
                "command line: trian.seed=7: trian",
                {"key": "trian", "nearest": "train"},
            )
        ],
    ),
    Mistake(
        of="profile of an iteration beyond the last",
        overrides=("profile.enabled=true", "profile.step=1000", "train.iterations=20"),
        problems=[("recipe.conflict", "command line: profile.step=1000", {})],
    ),
    Mistake(
        of="profile by the command's option in a run that is too short",
        overrides=("train.iterations=2", "--profile"),
        problems=[("recipe.conflict", "command line: --profile: profile.step", {})],
    ),
    Mistake(
        of="value of a wrong type",
        overrides=("train.seed=x",),
        problems=[
            (
                "recipe.wrong-type",
                "command line: train.seed=x",
                {"value": "x", "expected": "an integer"},
            )
        ],
    ),
    Mistake(
        of="fp16",
        overrides=("train.precision=fp16",),
        problems=[
            ("recipe.unknown-choice", "command line: train.precision=fp16", {"value": "fp16"})
        ],
    ),
    Mistake(
        of="fp8 of one module",
        overrides=("modules.vision.precision=fp8",),
        problems=[
            (
                "recipe.unknown-choice",
                "command line: modules.vision.precision=fp8",
                {"value": "fp8"},
            )
        ],
    ),
    Mistake(
        of="colocated layout on several ranks",
        overrides=("placement=colocated",),
        problems=[("layout.colocated", "command line: placement=colocated", {"module": "vision"})],
    ),
    Mistake(
        of="stock flag that the engine owns",
        overrides=("megatron.seq_length=8",),
        problems=[
            (
                "megatron.refused-flag",
                "command line: megatron.seq_length=8",
                {"flag": "seq_length", "instead": "train.sequence_length"},
            )
        ],
    ),
    Mistake(
        of="stock flag that loads half a state",
        overrides=("megatron.dist_ckpt_strictness=log_all",),
        problems=[
            (
                "megatron.refused-flag",
                "command line: megatron.dist_ckpt_strictness=log_all",
                {"flag": "dist_ckpt_strictness"},
            )
        ],
    ),
    Mistake(
        of="stock flag that wraps modules in another way",
        overrides=("megatron.use_megatron_fsdp=true",),
        problems=[
            (
                "megatron.refused-flag",
                "command line: megatron.use_megatron_fsdp=true",
                {"flag": "use_megatron_fsdp"},
            )
        ],
    ),
    Mistake(
        of="stock flag that keeps states in fewer bits",
        overrides=("megatron.exp_avg_dtype=bf16",),
        problems=[
            (
                "megatron.refused-flag",
                "command line: megatron.exp_avg_dtype=bf16",
                {"flag": "exp_avg_dtype"},
            )
        ],
    ),
    Mistake(
        of="stock flag that keeps states on the CPU",
        overrides=("megatron.optimizer_cpu_offload=true",),
        problems=[
            (
                "megatron.refused-flag",
                "command line: megatron.optimizer_cpu_offload=true",
                {"flag": "optimizer_cpu_offload"},
            )
        ],
    ),
    Mistake(
        of="stock flag that is none",
        overrides=("megatron.seq_lenght=8",),
        problems=[
            (
                "megatron.unknown-flag",
                "command line: megatron.seq_lenght=8",
                {"flag": "seq_lenght", "nearest": "seq_length"},
            )
        ],
    ),
    # Plugins and their options
    Mistake(
        of="unknown plugin",
        replace=("plugin: eye", "plugin: eyes"),
        problems=[
            (
                "plugin.not-installed",
                "recipe.yaml:3: modules.vision.plugin",
                {"plugin": "eyes"},
            )
        ],
    ),
    Mistake(
        of="nothing that learns",
        overrides=(
            "modules.vision.freeze=[encoder, projector]",
            "modules.language.freeze=[language]",
        ),
        problems=[
            ("recipe.nothing-trainable", "command line: modules.language.freeze=[language]", {})
        ],
    ),
    Mistake(
        of="plugin of another role",
        replace=("plugin: pairs", "plugin: words"),
        problems=[
            (
                "plugin.missing-hook",
                "recipe.yaml:15: data.plugin",
                {"plugin": "words", "hooks": ("build_dataset",)},
            )
        ],
    ),
    Mistake(
        of="option of a wrong type",
        replace=("patch_size: 14", "patch_size: big"),
        problems=[
            (
                "recipe.wrong-type",
                "recipe.yaml:7: modules.vision.options.patch_size",
                {"value": "big", "expected": "an integer"},
            )
        ],
    ),
    Mistake(
        of="options are looked at beside other mistakes",
        replace=("patch_size: 14", "patch_sise: 14"),
        overrides=("train.iterations=0", "data.options.extra=1"),
        problems=[
            (
                "recipe.unknown-key",
                "recipe.yaml:7: modules.vision.options.patch_sise",
                {"key": "patch_sise", "nearest": "patch_size"},
            ),
            ("recipe.out-of-range", "command line: train.iterations=0", {"value": 0, "least": 1}),
        ],
    ),
    Mistake(
        of="options of a plugin without any",
        overrides=("data.options.extra=1",),
        problems=[
            (
                "plugin.no-options",
                "command line: data.options.extra=1: data.options",
                {"plugin": "pairs"},
            )
        ],
    ),
    # Modules and the graph
    Mistake(
        of="no language model",
        replace=("  language:\n", "  languag:\n"),
        problems=[
            ("recipe.no-language-model", "recipe.yaml:1: modules", {"given": ("vision", "languag")})
        ],
    ),
    Mistake(
        of="second language model",
        replace=SECOND_MODEL,
        plugins={"words": words(module_edges=hookimpl(lambda module, modules: []))},
        problems=[("recipe.no-star", "recipe.yaml:8: modules.second", {"module": "second"})],
    ),
    Mistake(
        of="chain of encoders",
        replace=SECOND_EYE,
        plugins={"eye": eye(module_edges=edges(target="second"))},
        problems=[("recipe.no-star", "recipe.yaml:2: modules.vision", {"module": "vision"})],
    ),
    Mistake(
        of="language model that feeds an encoder",
        plugins={"words": words(module_edges=edges(target="vision"))},
        problems=[("recipe.no-star", "recipe.yaml:8: modules.language", {"module": "language"})],
    ),
    Mistake(
        of="placeholder of two modules",
        replace=SECOND_EYE,
        plugins={"eye": eye(module_edges=edges(placeholder="<image>"))},
        problems=[
            (
                "recipe.same-placeholder",
                "recipe.yaml:8: modules.second",
                {"modules": ("vision", "second"), "placeholder": "<image>"},
            )
        ],
    ),
    Mistake(
        of="module named twice",
        replace=("  language:\n", "  vision: {plugin: eye}\n  language:\n"),
        problems=[
            (
                "recipe.duplicate-key",
                "recipe.yaml:8: modules.vision",
                {"key": "vision", "lines": (2, 8)},
            )
        ],
    ),
    Mistake(
        of="misspelt module in an override",
        overrides=("modules.visoin.grid.dp=2",),
        problems=[
            (
                "recipe.unknown-module",
                "command line: modules.visoin.grid.dp=2: modules.visoin",
                {"name": "visoin", "modules": ("vision", "language")},
            )
        ],
    ),
    # Grids and sizes
    Mistake(
        of="hole between grids",
        overrides=("modules.language.grid.rank_offset=5",),
        problems=[
            (
                "layout.no-tiling",
                "command line: modules.language.grid.rank_offset=5",
                {"modules": ("language",)},
            )
        ],
    ),
    Mistake(
        of="grids that overlap",
        replace=("    grid:\n", "    grid:\n      rank_offset: 2\n"),
        problems=[
            (
                "layout.no-tiling",
                "recipe.yaml:11: modules.language.grid.rank_offset",
                {"modules": ("language",)},
            )
        ],
    ),
    Mistake(
        of="ep beyond the grid",
        overrides=("modules.language.grid.ep=8",),
        problems=[
            (
                "layout.expert-view",
                "command line: modules.language.grid.ep=8",
                {"dense": 4, "expert": 8},
            )
        ],
    ),
    Mistake(
        of="etp beyond the grid",
        replace=("ep: 4", "etp: 3"),
        problems=[
            (
                "layout.expert-view",
                "recipe.yaml:13: modules.language.grid.etp",
                {"dense": 4, "expert": 3},
            )
        ],
    ),
    Mistake(
        of="other number of ranks",
        started=6,
        problems=[("layout.world-size", "recipe.yaml:1: modules", {"needed": 8, "started": 6})],
    ),
    Mistake(
        of="heads by tp",
        overrides=("modules.vision.grid.tp=3",),
        problems=[
            (
                "layout.does-not-divide",
                "command line: modules.vision.grid.tp=3",
                {"sizes": {"tp": 3}, "what": "attention heads", "number": 8},
            )
        ],
    ),
    Mistake(
        of="samples of a microbatch by dp",
        overrides=("modules.vision.grid.dp=4",),
        problems=[
            (
                "layout.does-not-divide",
                "command line: modules.vision.grid.dp=4",
                {"sizes": {"dp": 4}, "what": "samples of a microbatch", "number": 2},
            )
        ],
    ),
    Mistake(
        of="experts by ep",
        overrides=("modules.language.grid={dp: 6, ep: 3}", "train.global_batch_size=6"),
        problems=[
            (
                "layout.does-not-divide",
                "command line: modules.language.grid={dp: 6, ep: 3}: modules.language.grid.ep",
                {"sizes": {"ep": 3}, "what": "experts", "number": 16},
            )
        ],
    ),
    Mistake(
        of="layers by pp",
        overrides=("modules.language.grid.pp=4",),
        problems=[
            (
                "layout.does-not-divide",
                "command line: modules.language.grid.pp=4",
                {"sizes": {"pp": 4}, "what": "layers", "number": 6},
            )
        ],
    ),
    Mistake(
        of="sequence by cp",
        replace=("      ep: 4\n", "      cp: 3\n"),
        problems=[
            (
                "recipe.not-a-multiple",
                "recipe.yaml:20: train.sequence_length",
                {"value": 64, "of": 6},
            ),
            (
                "recipe.not-a-multiple",
                "recipe.yaml:20: train.sequence_length",
                {"value": 64, "of": 6},
            ),
        ],
    ),
    Mistake(
        of="size that a plugin does not support",
        overrides=("modules.vision.grid.cp=2",),
        problems=[
            (
                "layout.unsupported-size",
                "command line: modules.vision.grid.cp=2",
                {"plugin": "eye", "size": "cp", "number": 2},
            )
        ],
    ),
    Mistake(
        of="global batch by microbatch",
        overrides=("train.global_batch_size=7",),
        problems=[
            (
                "recipe.not-a-multiple",
                "command line: train.global_batch_size=7",
                {"value": 7, "of": 2},
            )
        ],
    ),
    # Samples
    Mistake(
        of="sample longer than the sequence",
        plugins={"pairs": shows(PICTURE, Text(text="x" * 100))},
        problems=[
            (
                "sample.too-long",
                "recipe.yaml:20: train.sequence_length",
                {"sample": "pairs/7", "positions": 104, "sequence_length": 64},
            )
        ],
    ),
    Mistake(
        of="media that no encoder reads",
        plugins={"pairs": shows(SOUND)},
        problems=[("sample.no-encoder", "recipe.yaml:14: data", {})],
    ),
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.of)
def test_a_mistake_is_told_with_its_place_its_values_and_the_way_out(
    mistake: Mistake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    old, new = mistake.replace
    assert old in RECIPE
    Path("recipe.yaml").write_text(RECIPE.replace(old, new, 1) if old else RECIPE)
    with pytest.raises(MimoError) as caught:
        make_plan(
            "recipe.yaml",
            mistake.overrides,
            host=host(**mistake.plugins),
            world_size=mistake.started,
        )
    assert facts(caught.value) == mistake.problems


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("recipes/a.yaml", "{here}/recipes"),
        ("recpie.yaml", f"{{here}}, nor in the package ({RECIPES}). Did you mean 'recipe.yaml'?"),
        (
            "demo-shufled",
            f"{{here}}, nor in the package ({RECIPES}). Did you mean 'demo-shuffled'?",
        ),
    ],
)
def test_a_recipe_that_is_not_there(recipe, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(RECIPE)
    with pytest.raises(MimoError) as caught:
        make_plan(recipe, host=host())
    there = said.format(here=tmp_path)
    assert caught.value.code == "recipe.not-found"
    assert caught.value.text == f"{recipe}: there is no such recipe in {there}"


def test_a_mistake_ends_the_command_before_a_rank_starts(tmp_path: Path):
    run = start("tiny", "modules.vision.grid.tp=3", folder=tmp_path / "run")
    assert run.code == 2
    assert run.errors.splitlines()[0] == (
        "command line: modules.vision.grid.tp=3: 3 does not divide attention heads 2; "
        "choose one of 1, 2 [layout.does-not-divide]"
    )
    assert "Traceback" not in run.errors
    assert not (tmp_path / "run").exists()


def test_a_platform_that_there_is_not_ends_the_command_before_a_rank_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MIMO_PLATFORM", "gpu")
    run = start("tiny", folder=tmp_path / "run")
    assert (run.code, run.screen) == (2, "")
    assert run.errors.startswith("MIMO_PLATFORM=gpu: expected cpu or cuda")
    assert not run.folder.exists()


def test_a_file_with_an_equals_sign_in_its_path_is_a_recipe(tmp_path: Path):
    folder = tmp_path / "lr=1"
    folder.mkdir()
    (folder / "recipe.yaml").write_text("modules: 3\n")
    run = start(folder / "recipe.yaml", folder=tmp_path / "run")
    assert (run.code, run.errors.splitlines()[0]) == (
        2,
        f"{folder / 'recipe.yaml'}:1: modules: expected a mapping of keys, got 3 (int) "
        "[recipe.wrong-type]",
    )
