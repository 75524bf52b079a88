"""Weights of a directory in real models: what they compute, and that none changes on its way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mimo_core.cli.export import modules_to_write
from mimo_core.errors import MimoError
from mimo_core.recipe import load_recipe
from mimo_core.testing import run_ranks
from mimo_core.weights.export import export
from mimo_core.weights.safetensors_dir import INDEX, read_directory

from ..helpers.paths import RANK_FUNCTIONS, RECIPES
from ..helpers.runs import installed, start

RANKS = RANK_FUNCTIONS / "weight_loading.py"
RECIPE = RECIPES / "judged.yaml"
TOLERANCE = 1e-5
"""As a share of the largest value of each tensor, in float32: sums in another order show up to
4e-6."""
DECAY_TOLERANCE = 2e-4
"""Of gradients of A_log and dt_bias (see the plugin's test_transformers)."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed("album", tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def whole(site: Path) -> dict[str, Any]:
    """The vision-language model of transformers, and ours."""
    function = f"{RANKS}:whole_model"
    result: dict[str, Any] = run_ranks(function, recipe=str(RECIPE), site=str(site))[0]
    return result


def test_a_whole_vision_language_model_computes_what_transformers_does(
    whole: dict[str, Any],
) -> None:
    assert whole["logits"] < TOLERANCE
    assert whole["losses"][0] == pytest.approx(whole["losses"][1], rel=1e-6)


def test_every_gradient_of_it_is_that_of_transformers(whole: dict[str, Any]) -> None:
    gradients = whole["gradients"]
    assert {name.split(".")[0] for name in gradients} == {"vision_model", "mlp1", "language_model"}
    wrong = {}
    for name, gap in gradients.items():
        decay = name.endswith((".A_log", ".dt_bias"))
        if not gap < (DECAY_TOLERANCE if decay else TOLERANCE):
            wrong[name] = gap
    assert wrong == {}


LAYOUTS = {
    "tp": ["modules.vision.grid={tp: 2}", "modules.language.grid={tp: 2, ep: 2}"],
    "pp": ["modules.vision.grid={pp: 2}", "modules.language.grid={pp: 2}"],
}


@pytest.fixture(scope="module")
def saved(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory, and checkpoints of both layouts that began with it."""
    from ..helpers import hugging_face_vlm as vlm

    base = tmp_path_factory.mktemp("saved")
    vlm.save_random(base / "begun")
    begin = [
        f"modules.{name}.pretrained_weights={base / 'begun'}" for name in ("vision", "language")
    ]
    dtypes = run_ranks(
        f"{RANKS}:save_layouts",
        ranks=4,
        recipe=str(RECIPE),
        site=str(site),
        overrides=begin,
        layouts={str(base / name): layout for name, layout in LAYOUTS.items()},
    )
    assert dtypes == [["torch.float32"]] * 4
    return base


@pytest.fixture
def maps(site: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(site)
    return lambda *names: modules_to_write(load_recipe(RECIPE), names, ())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("most", [5_000_000_000, 20_000])
def test_what_begins_with_a_directory_is_exported_bit_for_bit(
    saved: Path, maps: Any, tmp_path: Path, layout: str, most: int
) -> None:
    """With a directory to imitate, and from nothing; in one file, and in several with an index."""
    begun = load_file(saved / "begun" / "model.safetensors")
    like = export(saved / layout, tmp_path / "like", maps(), saved / "begun", most_bytes=most)
    assert (tmp_path / "like" / INDEX).exists() == (most < 5_000_000_000)
    assert (tmp_path / "like" / "config.json").read_bytes() == (
        saved / "begun" / "config.json"
    ).read_bytes()
    imitated = loaded(tmp_path / "like")
    assert imitated.keys() == begun.keys()
    assert [name for name in begun if not torch.equal(begun[name], imitated[name])] == []
    assert {name.rpartition(".")[2] for name in like.taken} == {"lambda1", "summary_idxs", "weight"}

    export(saved / layout, tmp_path / "plain", maps(), most_bytes=most)
    plain = loaded(tmp_path / "plain")
    assert begun.keys() - plain.keys() == set(like.taken)
    assert [
        name for name in plain if name in begun and not torch.equal(plain[name], begun[name])
    ] == []
    constants = {"input_conditioner.norm_mean", "input_conditioner.norm_std"}
    below = "vision_model.radio_model."
    assert {name.removeprefix(below) for name in plain.keys() - begun.keys()} == constants


def loaded(directory: Path) -> dict[str, torch.Tensor]:
    files = {entry.file for entry in read_directory(directory).values()}
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


@pytest.mark.long
def test_a_run_in_bf16_on_other_stages_ends_with_what_it_began_with(
    site: Path, maps: Any, tmp_path: Path
) -> None:
    """Directories of one module each, the tower frozen, the projector fresh; a learning rate that
    moves nothing. Main weights that were not made from the loaded ones would overwrite them."""
    from ..helpers import hugging_face_vlm as vlm

    vlm.save_random(tmp_path / "whole")
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    begun = {}
    for name in ("vision", "language"):
        prefix = f"{name}_model."
        begun[name] = {n.removeprefix(prefix): t for n, t in whole.items() if n.startswith(prefix)}
        (tmp_path / name).mkdir()
        save_file(begun[name], tmp_path / name / "model.safetensors")
    overrides = [f"modules.{name}.pretrained_weights={tmp_path / name}" for name in begun]
    overrides += ["modules.vision.grid={}", "modules.language.grid={pp: 2}"]
    overrides += ["modules.vision.freeze=[encoder]", "train.precision=bf16"]
    overrides += ["train.learning_rate=1e-30", "train.iterations=1"]
    run = start("judged", *overrides, folder=tmp_path / "run", site=site)
    assert run.code == 0, run.screen + run.errors
    assert "vision (encoder; projector begins fresh)" in run.screen.replace(str(tmp_path) + "/", "")
    for name, tensors in begun.items():
        export(run.folder / "checkpoints" / "iter_0000001", tmp_path / "out" / name, maps(name))
        ended = load_file(tmp_path / "out" / name / "model.safetensors")
        both = ended.keys() & tensors.keys() - {"radio_model.summary_idxs"}
        assert len(both) > 25
        wrong = [n for n in both if not torch.equal(ended[n], tensors[n].to(ended[n].dtype))]
        assert wrong == []


def test_one_module_is_exported_as_a_model_of_its_own(
    saved: Path, maps: Any, tmp_path: Path
) -> None:
    from transformers import NemotronHConfig, NemotronHForCausalLM

    from ..helpers.hugging_face_vlm import TEXT

    export(saved / "tp", tmp_path / "out", maps("language"))
    NemotronHConfig(**TEXT).save_pretrained(tmp_path / "out")
    _, told = NemotronHForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(told.values()), told


def test_a_checkpoint_of_another_model_is_refused(saved: Path, maps: Any, tmp_path: Path) -> None:
    """Nothing is written."""
    other = RECIPE.read_text().replace("projector_hidden_size: 48", "projector_hidden_size: 40")
    other = other.replace("ffn_hidden_size: 48, mamba", "mamba").replace('"M*-E"', '"M*EE"')
    (tmp_path / "other.yaml").write_text(other)
    wrong = modules_to_write(load_recipe(tmp_path / "other.yaml"), (), ())
    with pytest.raises(MimoError) as said:
        export(saved / "pp", tmp_path / "out", wrong)
    for part in (
        "input_projections.0.encoder.linear_fc1.weight is [48, 128], but the recipe's is [40, 128]",
        "lacks language_model.decoder.layers.2.mlp.router.weight",
        "has language_model.decoder.layers.2.mlp.linear_fc1.weight, of which",
    ):
        assert part in str(said.value), part
    assert list(tmp_path.iterdir()) == [tmp_path / "other.yaml"]
