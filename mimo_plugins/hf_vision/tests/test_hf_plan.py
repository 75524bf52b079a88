"""What is known of a tower before a rank starts: from files alone, without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hf_tiny import CONFIGS, CROPPED, SQUARE, tiny_module, write_model, write_weights
from mimo_plugin_hf_vision.architecture import architecture
from mimo_plugin_hf_vision.plugin import describe_module, param_mappings
from mimo_plugin_hf_vision.preprocessing import Preprocessing, preprocessing
from PIL.Image import Resampling
from safetensors.numpy import save_file

from mimo_core import MediaItem
from mimo_core.errors import MimoError
from mimo_core.planning.plan import make_plan
from mimo_core.testing import raises_code

RECIPE = Path(__file__).with_name("hf_run.yaml")
PLAN = """
import sys
from mimo_core.planning.plan import make_plan
from mimo_core.weights.pretrained import directories, notes
places = [f"modules.vision.{key}={sys.argv[2]}" for key in ("options.model", "pretrained_weights")]
plan = make_plan(sys.argv[1], places)
print(*notes(directories(plan, None)), sep="|")
print(plan.graph.descriptions["vision"].num_parameters)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def _write(folder: Path, config: dict[str, Any], processor: dict[str, Any] | None = None) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def _said(options: dict[str, Any], model: Path | str) -> str:
    with pytest.raises(MimoError) as caught:
        describe_module(tiny_module(model, **options))
    return str(caught.value)


def _positions(module: Any) -> int:
    positions = describe_module(module).count_positions
    assert positions is not None
    (count,) = positions([MediaItem(modality="image", shape=(9, 9), load=lambda _: None)])  # type: ignore[arg-type, return-value]
    return count


def _how(model: Path, **options: Any) -> Preprocessing:
    module = tiny_module(model, **options)
    return preprocessing(architecture(module.options), module.options)


def _plan_in_a_fresh_process(model: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PLAN, str(RECIPE), model],
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )


def test_a_plan_by_name_reads_the_cache_and_loads_neither_torch_nor_transformers(
    tmp_path: Path,
) -> None:
    """As the hub's client lays it out: ``models--OWNER--NAME``, a commit, its files."""
    cached = tmp_path / "hub" / "models--someone--tiny-clip"
    write_weights(write_model(cached / "snapshots" / "0123abcd", "clip"))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0123abcd")
    done = _plan_in_a_fresh_process("someone/tiny-clip", HF_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    notes, parameters, loaded = done.stdout.splitlines()
    assert int(parameters) > 5000
    assert "0123abcd (encoder; projector begins fresh)|not read in" in notes
    assert "text_model.*, 1 tensor" in notes
    assert not {"torch", "transformers", "megatron"} & set(loaded.split())


def test_a_revision_is_of_the_model_and_of_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two commits in the hub's cache; another name and a directory have no part in it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name, commits in {"pinned": ("a" * 40, "b" * 40), "other": ("c" * 40,)}.items():
        cached = tmp_path / f"models--someone--{name}"
        for commit in commits:
            write_weights(write_model(cached / "snapshots" / commit, "clip"))
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text(commits[0])
    for revision, commit in ((None, "a" * 40), ("b" * 40, "b" * 40)):
        module = tiny_module("someone/pinned", revision=revision)
        assert architecture(module.options).directory.name == commit
        locate = param_mappings(module).locate
        assert locate("someone/pinned").name == commit
        assert locate("someone/other").name == "c" * 40
    assert "at revision strange is no directory" in _said({"revision": "strange"}, "someone/pinned")
    assert "revision=b: " in _said({"revision": "b"}, write_model(tmp_path / "here", "clip"))


@pytest.mark.parametrize(
    ("name", "said", "filter_"),
    [
        ("clip", {"resample": 0}, "NEAREST"),
        ("clip", {}, "BICUBIC"),
        ("siglip", {}, "BICUBIC"),
        ("dinov2", {}, "BICUBIC"),
        ("vit", {}, "BILINEAR"),
    ],
)
def test_the_filter_is_that_of_transformers_processor(
    tmp_path: Path, name: str, said: dict[str, int], filter_: str
) -> None:
    given = ("resample", "image_processor_type")
    square = {key: value for key, value in SQUARE.items() if key not in given}
    how = _how(write_model(tmp_path, name, square | said))
    assert Resampling(how.resample).name == filter_


def test_a_name_that_cannot_be_had_says_what_to_download(tmp_path: Path) -> None:
    done = _plan_in_a_fresh_process("someone/absent", HF_HOME=str(tmp_path))
    (said,) = done.stderr.splitlines()[-1:]
    assert "plugin 'hf-vision'" in said
    assert "'someone/absent' is no directory" in said
    assert "hf download someone/absent" in said
    assert "--local-dir DIR" in said


def test_a_path_that_is_not_there_is_no_name_of_the_hub(tmp_path: Path) -> None:
    assert "there is no such directory" in _said({}, tmp_path / "nothing")


@pytest.mark.parametrize("size", ["tp", "pp", "cp"])
def test_other_grids_are_refused_with_the_reason(tmp_path: Path, size: str) -> None:
    model = write_model(tmp_path, "siglip")
    places = [f"modules.vision.options.model={model}", f"modules.vision.grid.{size}=2"]
    with pytest.raises(MimoError) as caught:
        make_plan(RECIPE, places)
    said = str(caught.value)
    assert f"plugin 'hf-vision' does not support {size} 2: the module of transformers" in said
    assert "lets these exceed 1: dp" in said


def test_what_acts_on_megatrons_layers_is_refused(tmp_path: Path) -> None:
    model = write_model(tmp_path, "siglip")
    places = [
        f"modules.vision.options.model={model}",
        "modules.vision.megatron.recompute_granularity=selective",
    ]
    with pytest.raises(MimoError, match=r"modules\.vision\.options\.recompute"):
        make_plan(RECIPE, places)


@pytest.mark.parametrize(
    ("name", "options", "rows"),
    [
        ("clip", {}, 16),
        ("clip", {"tokens": "all"}, 17),
        ("siglip", {"tokens": "all"}, 16),
        ("siglip", {"image_size": 24}, 36),
        ("vit", {"tokens": "all", "class_tokens": 3}, 19),
    ],
)
def test_rows_of_a_picture(tmp_path: Path, name: str, options: dict[str, Any], rows: int) -> None:
    model = write_model(tmp_path, name)
    assert _positions(tiny_module(model, **options)) == rows


def test_a_released_config_that_leaves_all_to_the_defaults(tmp_path: Path) -> None:
    """As ``google/siglip-base-patch16-224`` has it."""
    config = {"model_type": "siglip", "vision_config": {"model_type": "siglip_vision_model"}}
    square = {**SQUARE, "size": {"height": 224, "width": 224}}
    description = describe_module(tiny_module(_write(tmp_path, config, square), projector="affine"))
    assert (description.hidden_size, description.num_layers, description.num_attention_heads) == (
        768,
        12,
        12,
    )
    # Of the released vision model, whose card counts 92.9 million.
    assert sum(weights.num_parameters for weights in description.parameters[:-1]) == 92_884_224


def test_a_tower_that_is_no_row_of_patches_is_refused(tmp_path: Path) -> None:
    said = _said({}, _write(tmp_path, {"model_type": "swin", "embed_dim": 96}, SQUARE))
    assert "model_type 'swin'" in said
    assert "num_hidden_layers" in said


def test_unknown_class_tokens_are_asked_for(tmp_path: Path) -> None:
    model = _write(tmp_path, {**CONFIGS["vit"], "model_type": "strange"}, SQUARE)
    assert "set the option class_tokens" in _said({}, model)


@pytest.mark.parametrize("layer", [-4, 3])
def test_a_layer_that_is_not_there(tmp_path: Path, layer: int) -> None:
    said = _said({"select_layer": layer}, write_model(tmp_path, "clip"))
    assert f"select_layer={layer}" in said
    assert "give -3 to 2" in said


def test_names_of_an_unknown_family_need_its_files(tmp_path: Path) -> None:
    with raises_code("weights.not-found"):
        param_mappings(tiny_module(write_model(tmp_path, "vit")))


def _header(text: str, length: int | None = None) -> bytes:
    return (len(text) if length is None else length).to_bytes(8, "little") + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234",
        _header("{}", 1 << 40),
        _header("[1]"),
        _header("not JSON"),
        _header('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'),
        _header('{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}}'),
        _header('{"a": {"shape": "x"}}'),
        _header("[" * 100_000),
    ],
    ids=["empty", "cut", "long", "list", "text", "no data", "negative", "no offsets", "nested"],
)
def test_a_damaged_header_is_named(tmp_path: Path, content: bytes) -> None:
    model = write_model(tmp_path, "vit")
    (model / "model.safetensors").write_bytes(content)
    with raises_code("weights.damaged"):
        param_mappings(tiny_module(model))


def test_a_pipe_in_the_place_of_weights_is_named(tmp_path: Path) -> None:
    model = write_model(tmp_path, "vit")
    os.mkfifo(model / "model.safetensors")
    with raises_code("weights.unreadable"):
        param_mappings(tiny_module(model))


def test_a_tower_is_exported_with_a_config_of_its_own(tmp_path: Path) -> None:
    """Of a whole model's directory too, so that transformers reads what was written."""
    config = param_mappings(tiny_module(write_model(tmp_path, "siglip"))).exported_config
    assert config == CONFIGS["siglip"]["vision_config"]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("change", [{}, {"select_layer": -2}, {"tokens": "all"}])
def test_what_is_exported_is_read_again(tmp_path: Path, name: str, change: dict[str, Any]) -> None:
    """Tower and rows, of a whole model's directory too."""
    if name == "vit":
        save_file({"embeddings.x": np.ones(1, np.float32)}, tmp_path / "model.safetensors")
    config = CONFIGS[name]
    if name == "clip":
        config = {"model_type": "llava", "vision_config": CONFIGS["clip-vision"]}
    module = tiny_module(_write(tmp_path, config, SQUARE), **change)
    exported = param_mappings(module).exported_config
    (tmp_path / "again").mkdir()
    again = tiny_module(_write(tmp_path / "again", dict(exported), SQUARE))
    one, other = architecture(module.options), architecture(again.options)
    assert {**one.config, **exported} == {**other.config, **exported}
    assert (one.model_type, one.select_layer) == (other.model_type, other.select_layer)
    assert one.tokens == other.tokens or not one.class_tokens


def test_a_class_of_torchvision_is_reported(tmp_path: Path) -> None:
    fast = {**SQUARE, "image_processor_type": "SiglipImageProcessorFast"}
    (note,) = describe_module(tiny_module(write_model(tmp_path, "siglip", fast))).notes
    assert "image_processor_type SiglipImageProcessorFast: pixels are those of its" in note
    assert describe_module(tiny_module(write_model(tmp_path, "siglip"))).notes == ()


@pytest.mark.parametrize(
    ("change", "due"),
    [
        ({"do_rescale": False}, "do_normalize true, but not do_rescale"),
        ({"do_rescale": None}, "do_normalize true, but not do_rescale"),
        ({"rescale_factor": 1}, "rescale_factor 1, from which DINOv3ViTImageProcessor makes"),
    ],
)
def test_pixels_that_dinov3_cannot_normalise_are_refused(
    tmp_path: Path, change: dict[str, Any], due: str
) -> None:
    """Without torchvision, which the comparison with transformers needs."""
    processor = {**SQUARE, "image_processor_type": "DINOv3ViTImageProcessorFast"}
    assert due in _said({}, write_model(tmp_path, "vit", processor | change))
    write_model(tmp_path, "vit", processor | change | {"do_normalize": False})
    assert _positions(tiny_module(tmp_path)) == 16


def test_pictures_are_made_as_the_processor_says(tmp_path: Path) -> None:
    square = _how(write_model(tmp_path / "square", "clip"))
    assert (square.resize, square.crop, square.resample) == ((16, 16), None, 3)
    cropped = _how(write_model(tmp_path / "cropped", "clip", CROPPED))
    assert (cropped.resize, cropped.crop, cropped.size) == (18, (16, 16), (16, 16))


def test_an_old_file_gives_one_number_for_both_sizes(tmp_path: Path) -> None:
    """As ``openai/clip-vit-base-patch32`` has it: the shorter side, then a crop."""
    old = {"size": 20, "crop_size": 16, "do_center_crop": True, "resample": 3}
    how = _how(write_model(tmp_path, "clip", {**SQUARE, **old}))
    assert (how.resize, how.crop) == (20, (16, 16))


def test_image_size_keeps_the_share_that_is_cut_off(tmp_path: Path) -> None:
    model = write_model(tmp_path, "clip", CROPPED)
    how = _how(model, image_size=32, mean=(0.5, 0.5, 0.5))
    assert (how.resize, how.size, how.mean) == (36, (32, 32), (0.5, 0.5, 0.5))


def test_pictures_of_several_sizes_are_refused(tmp_path: Path) -> None:
    free = {**SQUARE, "size": {"shortest_edge": 16, "longest_edge": 64}}
    said = _said({}, write_model(tmp_path, "clip", free))
    assert "preprocessor_config.json says {'do_resize': True, 'size': {'shortest_edge'" in said
    assert "set the option image_size" in said


def test_without_a_processor_the_colours_are_asked_for(tmp_path: Path) -> None:
    model = _write(tmp_path, CONFIGS["siglip"])
    assert "is not there to say the image_mean of three colours; set the option mean" in _said(
        {}, model
    )
    module = tiny_module(model, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert _positions(module) == 16


@pytest.mark.parametrize(
    ("key", "wrong", "why"),
    [
        ("std", [0, 0, 0], "pixels are divided by it, so each must be above 0"),
        ("std", [0.5, -0.5, 0.5], "pixels are divided by it"),
        ("std", [0.5, float("nan"), 0.5], "expected three finite numbers"),
        ("mean", [0.5, float("inf"), 0.5], "expected three finite numbers"),
        ("mean", [0.5, 0.5], "expected three finite numbers, one for each colour"),
        ("mean", ["0.5"] * 3, "expected three finite numbers"),
    ],
)
def test_colours_that_make_no_pixels_are_refused_with_their_place(
    tmp_path: Path, key: str, wrong: list[Any], why: str
) -> None:
    model = write_model(tmp_path, "clip", {**SQUARE, f"image_{key}": wrong})
    said = _said({}, model)
    assert said.startswith(f"{model / 'preprocessor_config.json'} says image_{key} {wrong}: {why}")
    with pytest.raises(ValueError, match=rf"option {key}=\[.*\]: {why}"):
        tiny_module(write_model(tmp_path, "clip"), **{key: tuple(wrong)})


@pytest.mark.parametrize(
    ("said", "due"),
    [
        ({"hidden_size": "16"}, "hidden_size '16' (a string); expected a whole number"),
        ({"patch_size": "4"}, "patch_size '4' (a string); expected a whole number or a list of"),
        ({"patch_size": [4]}, "patch_size [4]; expected one number, or height and width"),
        ({"patch_size": 0}, "patch_size 0; expected 1 or more"),
        ({"intermediate_size": [8]}, "intermediate_size [8] (a list); expected a whole number"),
        ({"hidden_dropout_prob": "no"}, "hidden_dropout_prob 'no' (a string); expected a number"),
    ],
)
def test_what_cannot_be_read_of_a_config_is_told(
    tmp_path: Path, said: dict[str, Any], due: str
) -> None:
    tower = _write(tmp_path, CONFIGS["vit"] | said, SQUARE)
    assert _said({}, tower).startswith(f"{tmp_path / 'config.json'} says {due}")


def test_what_is_wrong_below_a_whole_models_config_is_named_there(tmp_path: Path) -> None:
    below = CONFIGS["clip"]["vision_config"] | {"hidden_size": "16"}
    model = _write(tmp_path, {**CONFIGS["clip"], "vision_config": below}, SQUARE)
    assert "config.json says vision_config.hidden_size '16' (a string)" in _said({}, model)


def test_what_cannot_be_read_of_a_processor_is_told(tmp_path: Path) -> None:
    for key, said, due in (
        ("do_resize", "yes", "do_resize 'yes' (a string); expected true or false"),
        ("size", "16", "size '16' (a string); expected a whole number or a list of"),
        ("size", {"height": "16"}, "size.height '16' (a string); expected a whole number"),
    ):
        model = write_model(tmp_path, "clip", {**SQUARE, key: said})
        assert _said({}, model).startswith(f"{model / 'preprocessor_config.json'} says {due}")
