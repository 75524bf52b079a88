"""``mimo doctor``: what is wrong is found, with the way out; nothing heavy is imported."""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from mimo_core.cli.doctor import doctor_screen
from mimo_core.doctor import Finding, Report, abilities, examine, machine, packages

from ..helpers.fake_plugins import GOOD, host

TORCH = {"cuda": "13.0", "gloo": True, "nccl": True, "gpus": []}
TWO_GPUS = {**TORCH, "gpus": [["NVIDIA H200", 150e9]] * 2}


@pytest.fixture
def report(install, monkeypatch: pytest.MonkeyPatch):
    """Gives the findings, by what they are about, on a machine with these plugins."""

    def look(torch=TORCH, **plugins: str) -> dict[str, Finding]:
        for name, code in plugins.items():
            install(name, code)
        monkeypatch.setattr(machine, "ask_torch", lambda: torch)
        monkeypatch.setattr(machine, "_has_driver", lambda: False)
        found = examine()
        return {finding.what: finding for finding in found.findings}

    return look


def test_a_healthy_machine(report):
    found = report(ant=GOOD)
    assert found["ant"].found == "mimo-plugin-ant 1.2"
    assert found["mimo-core"].verdict == "good"
    assert found["GPUs"].found == "none"
    assert found["ranks on CPUs"].found.startswith("yes")
    assert found["ranks on GPUs"].verdict == "note"


def test_plugins_that_are_broken_or_ill_mannered(report):
    found = report(
        bad="import no_such_thing", late=GOOD.replace("1.0", "7.0"), loud="print(1)\n" + GOOD
    )
    assert found["bad"].verdict == "wrong"
    assert "No module named 'no_such_thing'" in found["bad"].found
    assert found["late"].verdict == "wrong"
    assert "contract 7.0" in found["late"].found
    assert found["loud"].verdict == "note"
    assert "prints when it is imported" in found["loud"].found


@pytest.mark.parametrize("value", ["gpu", "cuda"])
def test_a_platform_that_there_is_not(report, monkeypatch: pytest.MonkeyPatch, value: str):
    monkeypatch.setenv("MIMO_PLATFORM", value)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    found = report(ant=GOOD)["MIMO_PLATFORM"]
    due = {
        "gpu": "MIMO_PLATFORM=gpu: expected cpu or cuda",
        "cuda": "cuda, but CUDA_VISIBLE_DEVICES=-1 hides all GPUs of this machine",
    }
    assert found.found.startswith(due[value])
    assert (found.verdict, found.remedy) == ("wrong", "unset MIMO_PLATFORM")


def test_variables_that_say_what_they_cannot_and_those_that_nothing_reads(
    report, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MIMO_SHARE_GPUS", "banana")
    monkeypatch.setenv("OMP_NUM_THREADS", "0")
    monkeypatch.setenv("MIMO_EAGER_COMUNICATORS", "1")
    found = report(ant=GOOD)
    for name in ("MIMO_SHARE_GPUS", "OMP_NUM_THREADS"):
        assert (found[name].verdict, found[name].remedy) == ("wrong", f"unset {name}")
        assert ": expected " in found[name].found
    misspelt = found["MIMO_EAGER_COMUNICATORS"]
    assert misspelt.verdict == "note"
    assert misspelt.found.endswith("Did you mean 'MIMO_EAGER_COMMUNICATORS'?")


def test_a_switch_that_says_neither_yes_nor_no(report, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MIMO_DISABLE_PLUGIN_AUTOLOAD", "maybe")
    found = report(ant=GOOD)["discovery"]
    assert found.verdict == "wrong"
    assert found.found.startswith("MIMO_DISABLE_PLUGIN_AUTOLOAD=maybe: expected 1, ")


def test_no_plugin_at_all(report):
    found = report()
    assert found["plugins"].verdict == "wrong"
    due = "pip install mimo-plugin-radio mimo-plugin-nemotron mimo-plugin-digits"
    assert found["plugins"].remedy == due
    from typer.testing import CliRunner

    from mimo_core.cli.mimo import app

    assert due in CliRunner().invoke(app, ["plugins", "list"]).stdout, "one list for both"


def test_a_kernel_that_is_not_there_is_told_once(report, monkeypatch: pytest.MonkeyPatch):
    def absent(name: str) -> str:
        if name in ("mamba-ssm", "causal-conv1d", "transformer-engine"):
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(packages, "version", absent)
    monkeypatch.setattr(abilities, "kernel", lambda name: "not there")
    told = [f"{one.what} {one.found}" for one in report(torch=TWO_GPUS, ant=GOOD).values()]
    for name in ("mamba_ssm|mamba-ssm", "transformer.?engine"):
        lines = [line for line in told if re.search(name, line, re.IGNORECASE)]
        assert len(lines) == 1, lines
        assert "not there" in lines[0]


def test_a_name_that_two_distributions_give_is_a_finding_and_no_crash(install, report):
    install("ant", GOOD, "one-ant")
    found = report(ant=GOOD)
    assert found["discovery"].verdict == "wrong"
    assert "two plugins are named 'ant'" in found["discovery"].found


def test_a_requirement_that_is_not_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    info = tmp_path / "needy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: needy\nVersion: 1.0\nRequires-Dist: numpy>=99\n"
        "Requires-Dist: no-such-thing\nRequires-Dist: attrs\n"
        "Requires-Dist: other-platform; sys_platform == 'amiga'\n"
        "Requires-Dist: tests-only; extra == 'test'\n"
    )
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (found,) = packages.fitting("needy")
    assert found.verdict == "wrong"
    assert "it needs numpy>=99, found " in found.found
    assert "it needs no-such-thing, found none" in found.found
    assert found.remedy == "pip install 'numpy>=99' 'no-such-thing'"


def test_torch_that_cannot_be_imported(report):
    found = report(torch="ImportError: libcudart.so.13: cannot open shared object file", ant=GOOD)
    assert "libcudart.so.13" in found["torch here"].found
    assert found["ranks"].verdict == "wrong"


def test_torch_is_asked_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch):
    told = machine.ask_torch()
    assert isinstance(told, dict)
    assert told["gloo"] is True
    monkeypatch.setattr(machine, "_ASK_TORCH", "import os; os.abort()")
    assert machine.ask_torch() == "exit code -6, without a word"
    assert machine.kernel("no_such_kernel") == (
        "ModuleNotFoundError: No module named 'no_such_kernel'"
    )


def test_gpus_without_kernels(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        abilities, "kernel", lambda name: "not there" if name == "mamba_ssm" else None
    )
    found = {finding.what: finding for finding in abilities.ranks(TWO_GPUS)}
    assert found["ranks on GPUs"].found == "yes: 2, one a GPU, NCCL"
    assert found["TransformerEngine layers"].verdict == "good"
    assert found["Mamba2 kernels"].found.startswith("no (mamba_ssm: not there)")
    assert found["Mamba2 kernels"].remedy == "pip install 'mimo-core[gpu]'"


def test_recipes_that_need_other_plugins_or_a_larger_machine():
    found = {finding.what: finding for finding in abilities.recipes(host(), TORCH)}
    assert found["recipe demo"].found.startswith("no: ")
    assert "there is no plugin 'radio'" in found["recipe demo"].found
    from mimo_core.plugins import Host

    real = {one.what: one for one in abilities.recipes(Host.discover(), TWO_GPUS)}
    assert real["recipe demo"].verdict == "good"
    assert real["recipe eight-ranks"].found.endswith("2 GPUs here")


def test_the_screen_tells_what_is_wrong_at_its_end(capsys: pytest.CaptureFixture[str]):
    from rich.console import Console

    findings = (
        Finding(section="machine", what="memory", found="8 GB"),
        Finding(section="plugins", what="bad", found="broken", verdict="wrong", remedy="mend it"),
    )
    Console(width=80).print(doctor_screen(Report(findings=findings)))
    out = capsys.readouterr().out
    assert "✗  bad     broken" in out
    assert "mend it" in out
    assert out.rstrip().endswith("wrong: bad")


def test_the_command_ends_with_1_where_something_is_wrong(
    install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from typer.testing import CliRunner

    from mimo_core.cli.mimo import app

    monkeypatch.setattr(machine, "ask_torch", lambda: TORCH)
    monkeypatch.setattr(machine, "_has_driver", lambda: False)
    install("bad", "import no_such_thing")
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 1
    wrong = [one["what"] for one in json.loads(result.stdout) if one["verdict"] == "wrong"]
    assert wrong == ["bad"]
