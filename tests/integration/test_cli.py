"""``mimo``: what it prints, and how a user's mistake ends it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from mimo_core import MediaItem, Sample, Text, hookimpl, platforms
from mimo_core.cli import mimo
from mimo_core.planning.plan import make_plan
from mimo_core.plugins import Host
from mimo_core.recipe import load_text
from mimo_core.reporting.header import count, run_header
from mimo_core.reporting.tables import amount

from ..helpers.fake_plugins import RECIPE, host, pairs


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Runs ``mimo`` in a folder with ``recipe.yaml``; gives status, stdout, stderr."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    seen = {}

    def discover(disabled=(), environ=None):
        seen["disabled"] = tuple(disabled)
        return host(broken=_Broken(), pairs=pairs(preview_samples=preview_samples))

    monkeypatch.setattr(Host, "discover", discover)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["mimo", *words])
        with pytest.raises(SystemExit) as caught:
            mimo.main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    call.seen = seen
    return call


@hookimpl
def preview_samples(data):
    """Two samples: the first with more pictures, the second longer."""
    picture = MediaItem(modality="image", shape=(8, 8), load=lambda generator: None)
    told = [
        (picture, picture, Text(text="cat", is_target=True)),
        (Text(text="what?"), picture, Text(text="the cat", is_target=True)),
    ]
    return [Sample(key=f"pairs/{at}", content=parts) for at, parts in enumerate(told)]


class _Broken:
    """A plugin that fails while it is registered."""

    @property
    def __dict__(self):
        raise RuntimeError("rotten")

    def __dir__(self):
        raise RuntimeError("rotten")


@pytest.mark.parametrize("command", ["plan", "verify"])
def test_a_wrong_environment_is_told_before_anything_starts(run, monkeypatch, command):
    monkeypatch.setenv("MIMO_PLATFORM", "gpu")
    monkeypatch.setenv("MIMO_SHARE_GPUS", "banana")
    status, out, err = run(command, "recipe.yaml")
    assert (status, out) == (2, "")
    platform, share = err.splitlines()
    due = "MIMO_PLATFORM=gpu: expected cpu or cuda; without it, a GPU is used where torch finds one"
    assert platform == f"{due} [environment.invalid-value]"
    assert share.startswith("MIMO_SHARE_GPUS=banana: expected 1, ")


def test_a_run_for_gpus_may_be_planned_on_a_machine_without(run, monkeypatch):
    monkeypatch.setattr(platforms, "_DEVICES", ())
    monkeypatch.setenv("MIMO_PLATFORM", "cuda")
    assert run("plan", "recipe.yaml")[0] == 0
    status, out, err = run("verify", "recipe.yaml")
    assert (status, out) == (2, "")
    assert err.startswith("MIMO_PLATFORM=cuda, but ")


def test_the_list_shows_each_plugin_and_why_one_is_broken(run):
    status, out, err = run("plugins", "list", "--no-plugin", "eye")
    assert (status, err) == (0, "")
    assert run.seen["disabled"] == ("eye",)
    rows = {row.split()[0]: row for row in out.splitlines() if row.split()}
    assert rows["eye"].split()[1:4] == ["mimo-plugin-eye", "0", "usable"]
    assert "RuntimeError: rotten" in rows["broken"]
    assert "build_dataset" in rows["pairs"]
    assert all(len(row) <= 80 for row in out.splitlines())


def test_the_list_as_json(run):
    status, out, _ = run("plugins", "list", "--json")
    records = {record["name"]: record for record in json.loads(out)}
    assert status == 0
    assert records["pairs"] == {
        "name": "pairs",
        "distribution": "mimo-plugin-pairs",
        "version": "0",
        "state": "usable",
        "reason": None,
        "hooks": ["build_dataset", "preview_samples"],
        "warnings": [],
    }
    assert (records["broken"]["state"], records["broken"]["reason"]) == (
        "broken",
        "RuntimeError: rotten",
    )


def test_a_plan_shows_graph_ranks_and_parameters(run):
    status, out, err = run("plan", "recipe.yaml", "modules.language.grid.pp=2")
    assert (status, err) == (0, "")
    for shown in (
        "vision",
        "(words)",
        "<vision>",
        "632.0 M parameters",
        "4 layers, rows 129 wide",
        "6 layers x 259 wide",
        "30.0 B parameters",
        "frozen: encoder",
        "ranks 0-3",
        "tp 2, dp 2",
        "ranks 4-11",
        "pp1 dp1",
        "non_colocated on 12 ranks",
        "30,632,000,000 parameters in all",
        "vision: sees in grey",
    ):
        assert shown in out, shown
    assert "│ 10 │ 11 │" in out
    # The encoder is frozen; all of the language model is described as lying on the first stage.
    assert [" ".join(row.split()) for row in out.splitlines()][-9:] == [
        "0-3 vision 632.0 M 2.4 GiB 0 B 0 B 2.4 GiB",
        "4-7 language 30.0 B 111.8 GiB 111.8 GiB 111.8 GiB 335.3 GiB",
        "8-11 language 0 0 B 0 B 0 B 0 B",
        "",
        "positions of 2 samples that plugin 'pairs' shows",
        "source positions",
        "vision 4-8 <vision>",
        "text 3-12 4-8 labels learned",
        "together 11-16 of sequence_length 64; the longest, pairs/1, fills 25%",
    ]
    assert all(cell_len(row) <= 80 for row in out.splitlines())


def test_a_plan_shows_what_a_module_does_not_share(run):
    shared = run("plan", "recipe.yaml")[1]
    assert "packed" not in shared
    assert "bf16" not in shared
    own = run("plan", "recipe.yaml", "modules.vision.precision=bf16")[1]
    assert "│ bf16  " in own
    assert "non_colocated on 8 ranks · data pairs · fp32" in own


def test_a_plan_as_json(run):
    status, out, _ = run("plan", "recipe.yaml", "--json")
    plan = json.loads(out)
    assert status == 0
    assert plan["world_size"] == 8
    assert plan["modules"]["vision"]["ranks"] == [0, 1, 2, 3]
    assert plan["modules"]["language"]["num_parameters"] == 30_000_000_000
    assert plan["modules"]["vision"]["notes"] == ["sees in grey"]
    assert plan["edges"] == [
        {"source": "vision", "target": "language", "placeholder": "<vision>", "id": 258}
    ]
    assert len(plan["ranks"]) == 8
    assert plan["ranks"][5] == {
        "label": "rank 5 (language, tp 1, dp 0)",
        "module": "language",
        "parameters": 30_000_000_000,
        "weights_bytes": 120_000_000_000,
        "gradients_bytes": 120_000_000_000,
        "optimizer_bytes": 120_000_000_000,
    }
    assert plan["ranks"][0]["gradients_bytes"] == 0
    assert plan["sequence_length"] == 64
    assert plan["positions"] == [
        {"sample": "pairs/0", "encoders": {"vision": 8}, "text": 3, "learned": 4, "kept": 4}
        | {"total": 11},
        {"sample": "pairs/1", "encoders": {"vision": 4}, "text": 12, "learned": 8, "kept": 8}
        | {"total": 16},
    ]
    assert plan["plugins"]["eye"] == "0"
    assert plan["data"] == {"plugin": "pairs", "wrappers": {}, "notes": []}


def test_a_plan_of_a_dataset_that_shows_no_samples_leaves_positions_out(run, monkeypatch):
    monkeypatch.setattr(Host, "discover", lambda disabled=(), environ=None: host())
    assert "positions of" not in run("plan", "recipe.yaml")[1]
    assert json.loads(run("plan", "recipe.yaml", "--json")[1])["positions"] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["plan", "recipe.yaml", "train.seed=x"],
            "command line: train.seed=x: expected an integer, got 'x' (str) [recipe.wrong-type]\n",
        ),
        (
            ["plan", "recipe.yaml", "modules.vision.pretrained_weights=gone"],
            "command line: modules.vision.pretrained_weights=gone: plugin 'eye' does not say how "
            "its weights are named (weight_map); leave it out [plugin.missing-hook]\n",
        ),
        (
            ["plan", "recipe.yaml", "placement=shared"],
            "command line: placement=shared: expected one of 'non_colocated', 'colocated', got "
            "'shared' (str) [recipe.unknown-choice]\n",
        ),
        (
            ["plan", "recipe.yaml", "data.plugin=broken"],
            "command line: data.plugin=broken: plugin 'broken' (mimo-plugin-broken 0) cannot be "
            "used: RuntimeError: rotten [plugin.import-failed]\n",
        ),
    ],
)
def test_a_users_mistake_is_its_message_alone_with_status_2(run, words, message):
    assert run(*words) == (2, "", message)


THREE = """\
modules:
  vision: {plugin: eye, grid: {dp: 8}, freeze: [encoder, projector]}
  a_very_long_name_of_an_encoder: {plugin: eye, grid: {tp: 8}}
  language: {plugin: words, grid: {tp: 4, dp: 2, pp: 6, ep: 8, cp: 2}}
data: {plugin: pairs}
train: {iterations: 1, micro_batch_size: 8, global_batch_size: 16, sequence_length: 64,
        learning_rate: 1}
"""


@pytest.mark.parametrize("encoders", [0, 1, 2])
def test_the_header_fits_80_columns_and_closes_its_boxes(encoders):
    lines = THREE.splitlines(keepends=True)
    text = "".join([lines[0], *lines[1 : 1 + encoders], *lines[3:]])
    plan = make_plan(load_text(text, "recipe.yaml").recipe, host=host())
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(run_header(plan))
    drawn = console.export_text().splitlines()
    assert all(cell_len(row) <= 80 for row in drawn)
    joined = "\n".join(drawn)
    assert joined.count("╭") == joined.count("╮") == joined.count("╯") == encoders + 1
    assert joined.count("▶") == encoders
    assert f"ranks {8 * encoders}-{8 * encoders + 95} " in joined
    assert "…" in joined
    assert f" {8 * encoders + 95} │" in joined


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 19, "2.5 MiB"), (3 << 41, "6.0 TiB")],
)
def test_amounts_of_bytes(size, text):
    assert amount(size) == text


def test_the_commands_that_only_look_load_nothing_heavy():
    """With the installed plugins and a recipe that sets Megatron's fields too."""
    code = (
        "import sys\n"
        "from importlib import import_module\n"
        "sys.argv = sys.argv[1:]\n"
        "try:\n    import_module(sys.argv[0]).main()\n"
        "finally:\n    print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    for words in (
        ("mimo_core.cli.mimo", "plan", "demo", "modules.language.megatron.persist_layer_norm=true"),
        ("mimo_core.cli.mimo", "plugins", "list"),
        ("mimo_core.cli.pretrain", "--help"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
        )
        loaded = set(done.stdout.splitlines()[-1].split())
        assert "typer" in loaded, words
        heavy = {"torch", "numpy", "megatron", "matplotlib", "sklearn", "transformers", "PIL"}
        assert not loaded & heavy, words


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1_500, "1.5 k"), (632e6, "632.0 M"), (3.2e10, "32.0 B")],
)
def test_count(number, text):
    assert count(number) == text
