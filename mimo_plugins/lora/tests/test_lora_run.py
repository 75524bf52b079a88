"""Whole runs with adapters, from a directory: what they begin with, save, go on from and export."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from safetensors.torch import load_file, save_file

import mimo_core
from mimo_core.checkpoint.reader import Checkpoint
from mimo_core.cli import mimo
from mimo_core.cli.export import find_checkpoint, modules_to_write
from mimo_core.errors import MimoError
from mimo_core.recipe import load_recipe
from mimo_core.weights.export import export

RECIPE = Path(__file__).with_name("adapters.yaml")
NONE = ("modules.vision.wrappers={}", "modules.language.wrappers={}")


@attrs.frozen(kw_only=True)
class Runs:
    """Without adapters, and with them, from the same weights."""

    base: Path
    """A directory of them."""
    plain: dict[str, Any]
    adapted: dict[str, Any]
    folder: Path
    """Of the adapted run."""


def run(folder: Path, *overrides: str) -> dict[str, Any]:
    """The summary, with the ``screen`` as one line."""
    command = [sys.executable, "-m", "mimo_core.cli.pretrain", str(RECIPE), *overrides]
    done = subprocess.run(
        [*command, "--run-dir", str(folder)],
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary | {"screen": " ".join(done.stdout.split())}


def refused(folder: Path, *overrides: str) -> str:
    """What is said before a rank starts."""
    with pytest.raises(MimoError) as caught:
        mimo_core.pretrain(RECIPE, overrides=overrides, run_dir=folder)
    return str(caught.value)


def begin(base: Path) -> list[str]:
    return [f"modules.{module}.pretrained_weights={base}" for module in ("vision", "language")]


def write(checkpoint: Path, out: Path) -> dict[str, torch.Tensor]:
    """What ``mimo export`` writes, by names."""
    folder, recipe = find_checkpoint(checkpoint)
    export(folder, out, modules_to_write(recipe, (), ()))
    return load_file(out / "model.safetensors")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    place = tmp_path_factory.mktemp("lora")
    base = random_directory(place / "base")
    plain = run(
        place / "plain", *NONE, *begin(base), "train.iterations=1", "checkpoint.enabled=false"
    )
    return Runs(
        base=base,
        plain=plain,
        adapted=run(place / "adapted", *begin(base)),
        folder=place / "adapted",
    )


def random_directory(folder: Path) -> Path:
    """Weights that no module begins with by itself."""
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for weights in modules_to_write(load_recipe(RECIPE), (), ()).values():
        for rule in weights.rules:
            prefix = weights.prefix if rule.component == weights.rules[0].component else ""
            for name, shape in rule.files.items():
                value = 0.1 * torch.randn(shape, generator=generator)
                tensors[prefix + name] = value + (1 if len(shape) == 1 else 0)
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return folder


def rows(summary: dict[str, Any]) -> list[tuple[float, float]]:
    return [(row["loss"], row["gradient_norm"]) for row in summary["iterations"]]


def test_the_first_loss_is_that_of_the_weights_below_to_the_last_bit(runs: Runs) -> None:
    assert runs.adapted["iterations"][0]["loss"] == runs.plain["iterations"][0]["loss"]


def manifest(folder: Path, iteration: int) -> dict[str, Any]:
    path = folder / "checkpoints" / f"iter_{iteration:07d}" / "mimo.json"
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def test_a_checkpoint_holds_adapters_and_the_projector_alone(runs: Runs) -> None:
    held = manifest(runs.folder, 3)
    weights = {key for key in held["tensors"] if not key.startswith("mimo.")}
    assert {key for key in weights if "lora_" not in key} == {
        f"modality_submodules.vision.input_projections.0.encoder.linear_fc{n}.{kind}"
        for n in (1, 2)
        for kind in ("weight", "bias")
    }
    assert "language_model.decoder.layers.3.mlp.experts.experts.3.linear_fc1.lora_a" in weights
    assert {origin["path"] for origin in held["origins"]} == {str(runs.base)}
    saved, base = (
        sum(math.prod(facts["shape"]) for facts in tensors.values())
        for tensors in ({key: held["tensors"][key] for key in weights}, held["left_out"])
    )
    assert saved < 0.2 * base


def test_a_run_goes_on_to_the_last_bit_and_from_a_directory_that_was_moved(
    runs: Runs, tmp_path: Path
) -> None:
    folder, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(
        runs.folder / "checkpoints" / "iter_0000001", folder / "checkpoints/iter_0000001"
    )
    shutil.copytree(runs.base, moved)
    assert rows(run(folder, *begin(moved))) == rows(runs.adapted)[1:]
    first, second = (
        Checkpoint(place / "checkpoints" / "iter_0000003") for place in (runs.folder, folder)
    )
    assert [
        key for key in first.keys if not torch.equal(*(c.read(key, ()) for c in (first, second)))
    ] == []

    weights = load_file(moved / "model.safetensors")
    weights["language_model.lm_head.weight"] += 1e-3
    save_file(weights, moved / "model.safetensors")
    said = refused(folder, *begin(moved), "train.iterations=4")
    assert f"frozen weights of language, and {moved} holds others now" in said


def test_what_is_exported_has_the_adapters_in_the_weights(runs: Runs, tmp_path: Path) -> None:
    """The rest as it was, to the last bit; test_lora_parallel.py shows what they compute."""
    base, merged = load_file(runs.base / "model.safetensors"), write(runs.folder, tmp_path / "out")
    assert merged.keys() >= base.keys()
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    language = "language_model.backbone.layers."
    assert changed == {
        *(f"vision_model.radio_model.model.blocks.0.{n}.weight" for n in ("attn.qkv", "attn.proj")),
        *(f"vision_model.radio_model.model.blocks.0.mlp.fc{n}.weight" for n in (1, 2)),
        *(f"mlp1.{n}.{kind}" for n in (1, 3) for kind in ("weight", "bias")),
        f"{language}0.mixer.in_proj.weight",
        *(f"{language}1.mixer.{n}_proj.weight" for n in "qkv"),
        *(
            f"{language}3.mixer.experts.{e}.{n}_proj.weight"
            for e in range(4)
            for n in ("up", "down")
        ),
    }


def test_a_base_that_was_moved_is_named_to_the_export(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(*words: str) -> tuple[str, str]:
        monkeypatch.setattr("sys.argv", ["mimo", *words])
        with pytest.raises(SystemExit):
            mimo.main()
        return capsys.readouterr()

    def export_command(*words: str) -> str:
        return command("export", str(runs.folder), *words)[1]

    due = write(runs.folder, tmp_path / "due")
    moved = runs.base.rename(tmp_path / "moved")
    try:
        gone = export_command(str(tmp_path / "a"))
        assert f"were read in {runs.base}: {runs.base}: there is no such directory" in gone
        for name in ("vision", "language"):
            assert (
                f"if it was moved, say where it is now: modules.{name}.pretrained_weights=PLACE"
                in gone
            )
        places = [f"modules.{name}.pretrained_weights={moved}" for name in ("vision", "language")]
        assert export_command(str(tmp_path / "b"), *places) == ""
        found = load_file(tmp_path / "b" / "model.safetensors")
        assert found.keys() == due.keys()
        assert all(torch.equal(found[name], due[name]) for name in due)

        weights = load_file(moved / "model.safetensors")
        weights["language_model.lm_head.weight"] += 1e-3
        other = tmp_path / "other"
        other.mkdir()
        save_file(weights, other / "model.safetensors")
        said = export_command(
            str(tmp_path / "c"), places[0], f"modules.language.pretrained_weights={other}"
        )
        assert f"{other} holds others now; give the directory as it was: modules.language." in said
        out, _ = command("plan", str(RECIPE), *start(runs), *begin(moved))
        assert f"language reads weights that do not learn in {moved}" in out
        said = refused(tmp_path / "next", *start(runs), places[0])
        assert (
            "if it was moved, say where it is now: modules.language.pretrained_weights=PLACE"
            in said
        )
        said = refused(runs.folder, *begin(runs.base), "train.iterations=4")
        assert (
            "if it was moved, say where it is now: modules.vision.pretrained_weights=PLACE" in said
        )
    finally:
        moved.rename(runs.base)


@pytest.fixture(scope="module")
def started(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Another run from the adapted one's last checkpoint; its projector does not learn."""
    folder = tmp_path_factory.mktemp("started") / "run"
    return folder, run(folder, *start(runs))


def start(runs: Runs) -> list[str]:
    """Nothing moves: what is seen of held-out samples is what the other run saw at its end."""
    still = ["train.learning_rate=1e-30", "train.iterations=2"]
    return [f"checkpoint.init_from={runs.folder}", "modules.vision.freeze=[projector]", *still]


def test_another_run_starts_from_adapters_and_reads_the_rest_where_it_is(
    runs: Runs, started: tuple[Path, dict[str, Any]]
) -> None:
    """The projector in the checkpoint that it learned in."""
    folder, summary = started
    kinds = [origin["kind"] for origin in manifest(folder, 2)["origins"]]
    assert sorted(kinds) == ["checkpoint", "directory", "directory"]
    assert not [key for key in manifest(folder, 2)["tensors"] if "input_projections" in key]
    assert summary["evaluations"][-1]["loss"] == runs.adapted["evaluations"][-1]["loss"]


def test_and_goes_on_to_the_last_bit(
    runs: Runs, started: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    first = "checkpoints/iter_0000001"
    shutil.copytree(started[0] / first, folder / first)
    again = run(folder, *start(runs))
    assert rows(again) == rows(started[1])[1:]
    assert again["evaluations"][-1]["loss"] == runs.adapted["evaluations"][-1]["loss"]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("modules.vision.freeze=[encoder]", "'encoder' is frozen, and lora is to adapt it"),
        (
            "modules.vision.wrappers.lora.parts=[language]",
            "module 'vision' has no part 'language'; its parts: encoder, projector",
        ),
        ("modules.vision.wrappers.lora.rank=0", "must be >= 1: 0"),
        (
            "modules.language.wrappers.lora.targets=['*.in_prj']",
            "'*.in_prj' names no linear layer of module 'language'. Did you mean 'in_proj'? Its",
        ),
    ],
)
def test_mistakes_are_told_at_their_place_before_a_rank_starts(
    runs: Runs, tmp_path: Path, override: str, said: str
) -> None:
    told = refused(tmp_path / "run", *begin(runs.base), override)
    assert told.startswith(f"command line: {override}: ") and said in told
    assert not (tmp_path / "run").exists()
