"""Every mistake of a recipe that is found before a rank starts, with its message."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest

from mimo_core import Edge, Media, Sample, Text, hookimpl
from mimo_core.errors import MimoError
from mimo_core.layout import SEVERAL
from mimo_core.plan import make_plan
from mimo_core.recipe import packaged

from .conftest import start
from .fake_plugins import RECIPE, eye, host, pairs, words


@attrs.frozen(kw_only=True)
class Mistake:
    """A recipe with something wrong in it, and all that is said of it."""

    of: str
    said: str
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


def shows(*parts: Text | Media) -> object:
    """A dataset that shows one sample."""

    @hookimpl
    def preview(data):
        return [Sample(key="pairs/7", parts=parts)]

    return pairs(preview=preview)


PICTURE = Media(kind="image", shape=(8, 8), load=lambda generator: None)
SOUND = Media(kind="sound", shape=(9,), load=lambda generator: None)
SECOND_EYE = ("  language:\n", "  second: {plugin: eye}\n  language:\n")
SECOND_MODEL = ("  language:\n", "  second: {plugin: words}\n  language:\n")
STAR = "megatron-core 0.19's MimoModel gives encoders no other module's output"
MICROBATCH = "(micro_batch_size 1 x dp 2 of language)"
SHARES = "does not divide the 2 samples of a microbatch " + MICROBATCH
FOLLOW = "choose sizes where the second divides the first"
RECIPES = ", ".join(packaged.names())

MISTAKES = (
    # Keys and values
    Mistake(
        of="unknown key",
        replace=("tp: 2, dp: 2", "tp: 2, dq: 2"),
        said="recipe.yaml:4: modules.vision.grid.dq: unknown key 'dq'. Did you mean 'dp'? "
        "Known keys: tp, cp, pp, dp, ep, expert_tp, first_rank",
    ),
    Mistake(
        of="unknown section",
        overrides=("trian.seed=7",),
        said="command line: trian.seed=7: trian: unknown key 'trian'. Did you mean 'train'? Known "
        "keys: modules, data, train, tokenizer, evaluate, checkpoint, profile, heartbeat, layout, "
        "megatron",
    ),
    Mistake(
        of="profile of an iteration beyond the last",
        overrides=("profile.record=true", "profile.iteration=1000", "train.iterations=20"),
        said="command line: profile.iteration=1000: 1000 is recorded, but train.iterations is 20; "
        "lower the one or raise the other",
    ),
    Mistake(
        of="profile by the command's option in a run that is too short",
        overrides=("train.iterations=2", "--profile"),
        said="command line: --profile: profile.iteration: 3 is recorded, but train.iterations is "
        "2; lower the one or raise the other",
    ),
    Mistake(
        of="value of a wrong type",
        overrides=("train.seed=x",),
        said="command line: train.seed=x: expected an integer, got 'x' (str)",
    ),
    Mistake(
        of="fp16",
        overrides=("train.precision=fp16",),
        said="command line: train.precision=fp16: fp16 is refused: in core 0.19 each module's "
        "optimizer updates its own loss scale before found-inf is shared (models/mimo/optimizer.py"
        ", step), so the scales would drift apart; use bf16",
    ),
    Mistake(
        of="fp8 of one module",
        overrides=("modules.vision.precision=fp8",),
        said="command line: modules.vision.precision=fp8: fp8 is refused: core 0.19 takes the "
        "group that amax is reduced over from the global parallel state (fp8_utils.py, "
        "get_fp8_context), which a run of several grids has not; use bf16",
    ),
    Mistake(
        of="colocated layout on several ranks",
        overrides=("layout=colocated",),
        said="command line: layout=colocated: colocated puts all modules on one rank, but vision "
        f"has tp 2, dp 2; {SEVERAL}",
    ),
    Mistake(
        of="stock flag that the engine owns",
        overrides=("megatron.seq_length=8",),
        said="command line: megatron.seq_length=8: --seq-length is set by the engine from "
        "train.sequence_length; leave it out of the megatron section",
    ),
    Mistake(
        of="stock flag that loads half a state",
        overrides=("megatron.dist_ckpt_strictness=log_all",),
        said="command line: megatron.dist_ckpt_strictness=log_all: this flag is refused: a run "
        "goes on with all of its state; checkpoint.start_from takes weights alone; leave it out",
    ),
    Mistake(
        of="stock flag that wraps modules in another way",
        overrides=("megatron.use_megatron_fsdp=true",),
        said="command line: megatron.use_megatron_fsdp=true: this flag is refused: modules are "
        "wrapped one by one in core's DistributedDataParallel, whose distributed optimizer shares "
        "out the states; checkpoints and overlap_grad_reduce stand on it; leave it out",
    ),
    Mistake(
        of="stock flag that keeps states in fewer bits",
        overrides=("megatron.exp_avg_dtype=bf16",),
        said="command line: megatron.exp_avg_dtype=bf16: this flag is refused: a run is saved "
        "with its optimizer's states from its beginning, and core 0.19 makes those of fewer bits "
        "by a call that TransformerEngine's FusedAdam no longer takes (optimizer/__init__.py, "
        "init_state_fn); leave it out",
    ),
    Mistake(
        of="stock flag that keeps states on the CPU",
        overrides=("megatron.optimizer_cpu_offload=true",),
        said="command line: megatron.optimizer_cpu_offload=true: this flag is refused: a run is "
        "saved with its optimizer's states from its beginning, and core 0.19 has no function that "
        "makes those of an optimizer on the CPU (optimizer/__init__.py, init_state_fn); leave it "
        "out",
    ),
    Mistake(
        of="stock flag that is none",
        overrides=("megatron.seq_lenght=8",),
        said="command line: megatron.seq_lenght=8: megatron-core has no flag --seq-lenght. Did you "
        "mean 'seq_length'? --seq-length is set by the engine from train.sequence_length; leave it "
        "out of the megatron section",
    ),
    # Plugins and their options
    Mistake(
        of="unknown plugin",
        replace=("plugin: eye", "plugin: eyes"),
        said="recipe.yaml:3: modules.vision.plugin: there is no plugin 'eyes'. Did you mean 'eye'? "
        "Installed: eye, pairs, words. To install it: pip install mimo-plugin-eyes",
    ),
    Mistake(
        of="nothing that learns",
        overrides=(
            "modules.vision.freeze=[encoder, projector]",
            "modules.language.freeze=[language]",
        ),
        said="command line: modules.language.freeze=[language]: all parts of all modules are "
        "frozen; one at least must learn",
    ),
    Mistake(
        of="plugin of another role",
        replace=("plugin: pairs", "plugin: words"),
        said="recipe.yaml:15: data.plugin: plugin 'words' (mimo-plugin-words 0) does not implement "
        "build_dataset, which a dataset needs. Plugins that have what it takes: pairs",
    ),
    Mistake(
        of="option of a wrong type",
        replace=("patch_size: 14", "patch_size: big"),
        said="recipe.yaml:7: modules.vision.options.patch_size: expected an integer, "
        "got 'big' (str)",
    ),
    Mistake(
        of="options are looked at beside other mistakes",
        replace=("patch_size: 14", "patch_sise: 14"),
        overrides=("train.iterations=0", "data.options.extra=1"),
        said="recipe.yaml:7: modules.vision.options.patch_sise: unknown key 'patch_sise'. Did you "
        "mean 'patch_size'? Known keys: patch_size, scale, size, widths, threads\n"
        "command line: train.iterations=0: must be at least 1, got 0",
    ),
    Mistake(
        of="options of a plugin without any",
        overrides=("data.options.extra=1",),
        said="command line: data.options.extra=1: data.options: plugin 'pairs' takes no options; "
        "leave it out",
    ),
    # Modules and the graph
    Mistake(
        of="no language model",
        replace=("  language:\n", "  languag:\n"),
        said="recipe.yaml:1: modules: one module must be named 'language', the language model; "
        "given: vision, languag. Rename 'languag'?",
    ),
    Mistake(
        of="second language model",
        replace=SECOND_MODEL,
        plugins={"words": words(module_edges=hookimpl(lambda module, modules: []))},
        said="recipe.yaml:8: modules.second: the graph is no star: module 'second' (plugin "
        "'words') feeds nothing, as a language model does. A recipe has one language model, named "
        f"'language'; every other module is an encoder and must feed it: {STAR}",
    ),
    Mistake(
        of="chain of encoders",
        replace=SECOND_EYE,
        plugins={"eye": eye(module_edges=edges(target="second"))},
        said="recipe.yaml:2: modules.vision: the graph is no star: module 'vision' (plugin 'eye') "
        f"feeds second, but must feed 'language', once: {STAR}",
    ),
    Mistake(
        of="language model that feeds an encoder",
        plugins={"words": words(module_edges=edges(target="vision"))},
        said="recipe.yaml:8: modules.language: the graph is no star: module 'language' (plugin "
        f"'words') feeds vision, but must feed no module: {STAR}",
    ),
    Mistake(
        of="placeholder of two modules",
        replace=SECOND_EYE,
        plugins={"eye": eye(module_edges=edges(placeholder="<image>"))},
        said="recipe.yaml:8: modules.second: modules 'vision' (plugin 'eye') and 'second' (plugin "
        "'eye') use the same placeholder '<image>', so the rows of one could not be told from the "
        "other's; the plugin must make it from module.name or an option",
    ),
    Mistake(
        of="module named twice",
        replace=("  language:\n", "  vision: {plugin: eye}\n  language:\n"),
        said="recipe.yaml:8: modules.vision: module 'vision' is given twice, first in line 2; keep "
        "one, or give one of them another name",
    ),
    Mistake(
        of="misspelt module in an override",
        overrides=("modules.visoin.grid.dp=2",),
        said="command line: modules.visoin.grid.dp=2: modules.visoin: there is no module 'visoin'. "
        "Did you mean 'vision'? Modules: vision, language; for a new one set "
        "modules.visoin.plugin too",
    ),
    # Grids and sizes
    Mistake(
        of="hole between grids",
        overrides=("modules.language.grid.first_rank=5",),
        said="command line: modules.language.grid.first_rank=5: the grids do not tile ranks 0 .. 8:"
        "\n  vision    ranks 0..3  (tp 2, dp 2)\n  language  ranks 5..8  (tp 2, dp 2, ep 4)\n"
        "rank 4 belongs to no module: set modules.language.grid.first_rank=4 or leave it out",
    ),
    Mistake(
        of="grids that overlap",
        replace=("    grid:\n", "    grid:\n      first_rank: 2\n"),
        said="recipe.yaml:11: modules.language.grid.first_rank: the grids do not tile ranks 0 .. 5:"
        "\n  vision    ranks 0..3  (tp 2, dp 2)\n  language  ranks 2..5  (tp 2, dp 2, ep 4)\n"
        "ranks 2..3 belong to both vision and language: set modules.language.grid.first_rank=4 or "
        "leave it out",
    ),
    Mistake(
        of="ep beyond the grid",
        overrides=("modules.language.grid.ep=8",),
        said="command line: modules.language.grid.ep=8: tp 2 x cp 1 x dp 2 = 4 ranks of a pipeline "
        f"stage cannot be divided into expert_tp 1 x ep 8 = 8; {FOLLOW}",
    ),
    Mistake(
        of="expert_tp beyond the grid",
        replace=("ep: 4", "expert_tp: 3"),
        said="recipe.yaml:13: modules.language.grid.expert_tp: tp 2 x cp 1 x dp 2 = 4 ranks of a "
        f"pipeline stage cannot be divided into expert_tp 3 x ep 1 = 3; {FOLLOW}",
    ),
    Mistake(
        of="other number of ranks",
        started=6,
        said="recipe.yaml:1: modules: the recipe needs 8 ranks, but 6 were started. Start 8 "
        "(torchrun: nodes x --nproc-per-node = 8), or change the grids:\n"
        "  vision    ranks 0..3  (tp 2, dp 2)\n  language  ranks 4..7  (tp 2, dp 2, ep 4)",
    ),
    Mistake(
        of="heads by tp",
        overrides=("modules.vision.grid.tp=3",),
        said="command line: modules.vision.grid.tp=3: 3 does not divide attention heads 8; choose "
        "one of 1, 2, 4, 8",
    ),
    Mistake(
        of="samples of a microbatch by dp",
        overrides=("modules.vision.grid.dp=4",),
        said=f"command line: modules.vision.grid.dp=4: 4 {SHARES}; choose one of 1, 2, or a larger "
        "microbatch",
    ),
    Mistake(
        of="experts by ep",
        overrides=("modules.language.grid={dp: 6, ep: 3}", "train.global_batch_size=6"),
        said="command line: modules.language.grid={dp: 6, ep: 3}: modules.language.grid.ep: 3 does "
        "not divide experts 16; choose one of 1, 2, 4, 8, 16",
    ),
    Mistake(
        of="layers by pp",
        overrides=("modules.language.grid.pp=4",),
        said="command line: modules.language.grid.pp=4: 4 does not divide layers 6; choose one of "
        "1, 2, 3, 6",
    ),
    Mistake(
        of="sequence by cp",
        replace=("      ep: 4\n", "      cp: 3\n"),
        said="recipe.yaml:20: train.sequence_length: 64 is no multiple of 6 = 2 x cp 3 (a rank "
        "takes two chunks) of language; the next that is: 66\n"
        "recipe.yaml:20: train.sequence_length: 64 is no multiple of 6 = cp 3 x tp 2 (sequence "
        "parallel) of language; the next that is: 66",
    ),
    Mistake(
        of="size that a plugin does not support",
        overrides=("modules.vision.grid.cp=2",),
        said="command line: modules.vision.grid.cp=2: plugin 'eye' does not support cp 2; of the "
        "grid's sizes it lets these exceed 1: tp, dp",
    ),
    Mistake(
        of="global batch by microbatch",
        overrides=("train.global_batch_size=7",),
        said="command line: train.global_batch_size=7: 7 is no multiple of the 2 samples of a "
        f"microbatch {MICROBATCH}",
    ),
    # Samples
    Mistake(
        of="sample longer than the sequence",
        plugins={"pairs": shows(PICTURE, Text(text="x" * 100))},
        said="recipe.yaml:20: train.sequence_length: sample pairs/7 takes 104 positions (vision 4, "
        "text 100), more than sequence_length 64; raise it to 104 or more, or make samples shorter "
        "by the options of the data or of the encoders, or set data.too_long to cut",
    ),
    Mistake(
        of="media that no encoder reads",
        plugins={"pairs": shows(SOUND)},
        said="recipe.yaml:14: data: sample pairs/7 has media of kind 'sound', but no encoder of "
        "the recipe reads it (encoders and what they read: {'vision': 'image'})",
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
    assert str(caught.value) == mistake.said


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
    assert str(caught.value) == f"{recipe}: there is no such recipe in {there}"


def test_a_mistake_ends_the_command_before_a_rank_starts(tmp_path: Path):
    run = start("tiny", "modules.vision.grid.tp=3", folder=tmp_path / "run")
    assert run.code == 2
    assert run.errors.splitlines()[0] == (
        "command line: modules.vision.grid.tp=3: 3 does not divide attention heads 2; "
        "choose one of 1, 2"
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
        f"{folder / 'recipe.yaml'}:1: modules: expected a mapping of keys, got 3 (int)",
    )
