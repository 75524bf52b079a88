"""Directories of weights, looked at before a rank starts: names, shapes, types, prefixes."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from safetensors.torch import save_file

from mimo_core import (
    CheckpointTensor,
    ConfigKeys,
    ConstantTensor,
    ParamMapping,
    ParamMappings,
    hookimpl,
)
from mimo_core.checkpoint.reader import Checkpoint
from mimo_core.errors import RecipeError
from mimo_core.planning.plan import make_plan
from mimo_core.verify.recipes import judges, layouts
from mimo_core.weights.compare import DirectoryMatch, match
from mimo_core.weights.pretrained import directories, notes
from mimo_core.weights.safetensors_dir import INDEX, WHOLE, UnreadableWeightsError, read_directory

from ..helpers.fake_plugins import RECIPE, eye, host
from ..helpers.problems import refused


def rule(part: Any, name: str, *shape: int) -> ParamMapping:
    return ParamMapping(
        component=part, tensors=(CheckpointTensor(key=name, shape=shape),), files={name: shape}
    )


MAP = ParamMappings(
    rules=(
        rule("encoder", "tower.embed.weight", 4, 3),
        rule("encoder", "tower.layers.0.weight", 4, 4),
        rule("projector", "join.weight", 2, 4),
    ),
    constants=(
        ConstantTensor(
            name="tower.mean", shape=(3,), values=(0.1, 0.2, 0.3), meaning="set the mean"
        ),
        ConstantTensor(name="tower.scale", shape=(4,), values=(1.0,), meaning="only ones"),
    ),
    foreign={"tower.video.*": "embeds videos"},
    config={"heads": (4, "set the option heads"), "epsilon": (1e-6, "fixed")},
    config_below=("vision_config",),
    prefix="vision_model.",
)
TOWER = {"tower.embed.weight": torch.ones(4, 3), "tower.layers.0.weight": torch.ones(4, 4)}
JOIN = {"join.weight": torch.ones(2, 4)}


def below(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def directory(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / WHOLE)
    return folder


def matched(folder: Path, tensors: dict[str, torch.Tensor]) -> DirectoryMatch:
    return match(MAP, directory(folder, tensors))


def test_a_part_that_is_absent_as_a_whole_begins_fresh(tmp_path: Path) -> None:
    found = matched(tmp_path, TOWER)
    assert (found.mistakes, found.prefixes, found.fresh) == ((), {"encoder": ""}, ("projector",))
    found = matched(tmp_path, below("x.", JOIN))
    assert (found.mistakes, found.prefixes) == ((), {"projector": "x."})
    assert found.fresh == ("encoder",)


def test_in_a_whole_model_each_part_has_a_prefix_of_its_own(tmp_path: Path) -> None:
    others = {"language_model.head.weight": torch.ones(2), "embed.weight": torch.ones(4, 3)}
    video = {"vision_model.tower.video.weight": torch.ones(1)}
    found = matched(tmp_path, below("vision_model.", TOWER) | JOIN | others | video)
    assert found.mistakes == ()
    assert found.prefixes == {"encoder": "vision_model.", "projector": ""}
    assert found.entry(MAP.rules[0], "tower.embed.weight").shape == (4, 3)
    assert found.unread == {"vision_model.tower.video.* (embeds videos)": 1}


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    wrong = {
        "v.tower.embed.weight": torch.ones(4, 5),
        "v.tower.video.weight": torch.ones(1),
        "v.tower.layers.1.weight": torch.ones(4, 4),
        "join.weight": torch.ones(2, 4, dtype=torch.int32),
        "join.bias": torch.ones(2),
    }
    assert matched(tmp_path, wrong).mistakes == (
        "v.tower.embed.weight is [4, 5], but the model's is [4, 3]",
        "lacks v.tower.layers.0.weight",
        "join.weight is of type I32; read are BF16, F16, F32, F64",
        "has join.bias, which the model has not",
        "has v.tower.layers.1.weight, which the model has not",
    )
    # The directory of the module alone: there, nothing is another module's.
    (mistake,) = matched(tmp_path, TOWER | {"neck.weight": torch.ones(1)}).mistakes
    assert mistake == "has neck.weight, which the model has not"
    (mistake,) = matched(tmp_path, {"decoder.weight": torch.ones(1)}).mistakes
    assert mistake.startswith("holds nothing of this module: no name such as 'tower.embed.weight'")
    (mistake,) = matched(tmp_path, below("a.", TOWER) | below("b.", TOWER)).mistakes
    assert mistake.startswith("holds the encoder several times, below 'a.', 'b.'")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_constants_must_be_those_of_the_options(tmp_path: Path, dtype: torch.dtype) -> None:
    same = {"tower.mean": torch.tensor([0.1, 0.2, 0.3]), "tower.scale": torch.ones(4)}
    tensors = TOWER | {name: tensor.to(dtype) for name, tensor in same.items()}
    assert matched(tmp_path, tensors).mistakes == ()
    tensors |= {"tower.mean": torch.tensor([0.1, 0.2, 0.31]).to(dtype)}
    tensors |= {"tower.scale": torch.tensor([1, 1, 0.5, 1]).to(dtype)}
    first, second = matched(tmp_path, tensors).mistakes
    assert first.startswith("tower.mean holds 0.") and first.endswith("set the mean")
    assert second == "tower.scale holds 1, 1, 0.5, 1: only ones"
    (mistake,) = matched(tmp_path, TOWER | {"tower.scale": torch.ones(2)}).mistakes
    assert mistake == "tower.scale is [2], not [4]: only ones"


def test_what_no_shape_tells_is_compared_with_the_config(tmp_path: Path) -> None:
    """Tensors of 4 heads have the shapes of those of 2."""
    config = tmp_path / "config.json"
    for right in ('{"heads": 4}', '{"heads": 2, "vision_config": {"epsilon": 0.000001}}'):
        config.write_text(right)
        assert matched(tmp_path, TOWER).mistakes == ()
        assert matched(tmp_path, JOIN).mistakes == ()
    config.write_text('{"heads": 4, "vision_config": {"heads": 2, "epsilon": 1e-5}}')
    assert matched(tmp_path, TOWER).mistakes == (
        "config.json says vision_config.heads 2, but here it is 4: set the option heads",
        "config.json says vision_config.epsilon 1e-05, but here it is 1e-06: fixed",
    )
    config.write_text('{"heads": "4", "vision_config": {"epsilon": "1e-6"}}')
    assert matched(tmp_path, TOWER).mistakes == (
        "config.json says vision_config.epsilon '1e-6' (a string); expected a number",
    )
    config.write_text("[")
    with refused("weights.damaged", UnreadableWeightsError, file=str(config)):
        matched(tmp_path, TOWER)


def test_two_names_of_one_tensor_hold_the_same_numbers(tmp_path: Path) -> None:
    """Such as the output layer of tied embeddings; another precision is another number."""
    one = attrs.evolve(
        MAP,
        foreign={"tower.copy": "the embedding again"},
        copies={"tower.copy": ("tower.embed.weight", "set the option tied")},
    )
    for copy, said in {
        torch.ones(4, 3): (),
        torch.ones(4, 3).index_fill(0, torch.tensor([3]), 2.0): (
            "holds other numbers as tower.copy than as tower.embed.weight: set the option tied",
        ),
        torch.ones(4, 3, dtype=torch.bfloat16): (
            "holds other numbers as tower.copy than as tower.embed.weight: set the option tied",
        ),
    }.items():
        assert match(one, directory(tmp_path, TOWER | {"tower.copy": copy})).mistakes == said


def test_what_nothing_reads_of_a_config_is_noted(tmp_path: Path) -> None:
    noted = attrs.evolve(MAP, config_notes=lambda config: [f"says {sorted(config)}"])
    folder = directory(tmp_path, TOWER)
    (note,) = match(noted, folder).notes
    assert note.startswith("there is no config.json")
    (folder / "config.json").write_text('{"depth": 1, "vision_config": {"width": 2}}')
    assert match(noted, folder).notes == ("config.json (vision_config) says ['width']",)


def test_keys_of_a_type_are_compared_and_noted() -> None:
    keys = ConfigKeys(
        defaults={"heads": 4, "epsilon": 1e-6, "window": None},
        nullable=frozenset({"window"}),
        training={"dropout": 0.0},
        ignored=frozenset({"cache"}),
    )
    due = {"heads": (4, "set heads"), "epsilon": (1e-6, "fixed"), "window": (None, "none here")}
    assert list(keys.unlike({}, due)) == []
    assert list(keys.unlike({"epsilon": 9.999999974752427e-07, "window": None}, due)) == []
    assert list(keys.unlike({"heads": None, "window": 8}, due, "text_config.")) == [
        "says text_config.heads null; expected a value such as 4",
        "says text_config.window 8, but here it is None: none here",
    ]
    due["heads"] = (2, "set heads")
    assert list(keys.unlike({}, due)) == [
        "lacks heads, which its type takes as 4, but here it is 2: set heads"
    ]
    config = {"dropout": 0.1, "cache": 1, "_name_or_path": "x", "heads": 8, "strange": [1], "no": 0}
    assert list(keys.notes(config)) == [
        "says dropout 0.1, which is not read: the recipe decides it",
        "says strange [1], which is not known here and is not read",
        "says no 0, which is not known here and is not read",
    ]


def test_a_module_may_judge_the_config_itself(tmp_path: Path) -> None:
    judged = attrs.evolve(MAP, config_mistakes=lambda config: [f"says {sorted(config)}"])
    folder = directory(tmp_path, TOWER)
    assert match(judged, folder).mistakes == ()  # there is none
    (folder / "config.json").write_text('{"depth": 1}')
    assert match(judged, folder).mistakes == ("config.json says ['depth']",)
    (folder / "config.json").write_text('{"depth": 1, "vision_config": {"width": 2}}')
    assert match(judged, folder).mistakes == ("config.json (vision_config) says ['width']",)


def test_several_files_are_read_by_their_index(tmp_path: Path) -> None:
    save_file(TOWER, tmp_path / "model-1.safetensors")
    save_file(JOIN, tmp_path / "model-2.safetensors")
    places = dict.fromkeys(TOWER, "model-1.safetensors") | {"join.weight": "model-2.safetensors"}

    def index(weight_map: Any) -> None:
        (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))

    index(places)
    assert read_directory(tmp_path).keys() == TOWER.keys() | JOIN.keys()
    index(places | {"gone": "model-2.safetensors"})
    with refused("weights.damaged", UnreadableWeightsError, file=str(tmp_path / INDEX)) as caught:
        read_directory(tmp_path)
    assert "names gone, but model-2.safetensors" in caught.value.text
    index(places | {"join.weight": "../model-2.safetensors"})
    with refused("weights.damaged", UnreadableWeightsError, file=str(tmp_path / INDEX)) as caught:
        read_directory(tmp_path)
    assert "'../model-2.safetensors'" in caught.value.text
    index(places)
    (tmp_path / "model-2.safetensors").unlink()
    with refused(
        "weights.damaged", UnreadableWeightsError, file=str(tmp_path / "model-2.safetensors")
    ):
        read_directory(tmp_path)


class Trap:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("unpickled",))


def test_what_is_no_safetensors_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    files = ("pytorch_model.bin",)
    with refused(
        "weights.not-found", UnreadableWeightsError, directory=str(tmp_path), files=files
    ) as caught:
        read_directory(tmp_path)
    assert "unpickled" in caught.value.text
    (tmp_path / WHOLE).write_bytes(pickle.dumps(Trap()))
    with refused("weights.damaged", UnreadableWeightsError, file=str(tmp_path / WHOLE)):
        read_directory(tmp_path)
    with refused("weights.not-found", UnreadableWeightsError, directory=str(tmp_path / "gone")):
        read_directory(tmp_path / "gone")


def test_the_metadata_of_a_checkpoint_can_run_nothing(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Trap()))
    file = str(tmp_path / ".metadata")
    with refused("checkpoint.foreign-content", file=file) as caught:
        Checkpoint(tmp_path)
    assert caught.value.values["name"].startswith("_pytest.outcomes")


def test_a_file_that_is_cut_off_is_told(tmp_path: Path) -> None:
    path = directory(tmp_path, TOWER) / WHOLE
    path.write_bytes(path.read_bytes()[:-1])
    with refused("weights.damaged", UnreadableWeightsError, file=str(path)) as caught:
        read_directory(tmp_path)
    assert "tower.layers.0.weight ends at byte" in caught.value.text


def weighted() -> Any:
    @hookimpl
    def param_mappings(module: Any) -> ParamMappings:
        return MAP

    return host(eye=eye(param_mappings=param_mappings))


def test_the_plan_tells_mistakes_of_all_modules_with_their_places(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    wrong = directory(tmp_path / "wrong", TOWER | {"neck.weight": torch.ones(1)})
    both = [
        f"modules.vision.pretrained_weights={wrong}",
        f"modules.language.pretrained_weights={wrong}",
    ]
    plan = make_plan(recipe, both, host=weighted())
    with pytest.raises(RecipeError) as said:
        directories(plan, done=None)
    assert {(problem.code, problem.path) for problem in said.value.problems} == {
        ("weights.mismatch", ("modules", "vision", "pretrained_weights")),
        ("plugin.missing-hook", ("modules", "language", "pretrained_weights")),
    }
    assert f"modules.vision.pretrained_weights={wrong}: {wrong} has neck.weight" in said.value.text
    assert directories(plan, done=2) == {}, "a run that goes on has its weights"

    right = directory(tmp_path / "right", TOWER)
    plan = make_plan(recipe, [f"modules.vision.pretrained_weights={right}"], host=weighted())
    line, note = notes(directories(plan, done=None))
    assert note.startswith(f"{right}: there is no config.json")
    assert line == (f"vision begins with the weights of {right} (encoder; projector begins fresh)")


def test_a_recipe_with_weights_can_be_verified(tmp_path: Path) -> None:
    """Its layout begins with the judge's checkpoint, which began with them."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    plan = make_plan(recipe, ["modules.vision.pretrained_weights=somewhere"], host=weighted())
    assert judges(plan.recipe, 1).modules["vision"].pretrained_weights == "somewhere"
    begun = layouts(plan.recipe, 1, tmp_path)
    assert begun.modules["vision"].pretrained_weights is None
    assert begun.checkpoint.init_from == str(tmp_path)
