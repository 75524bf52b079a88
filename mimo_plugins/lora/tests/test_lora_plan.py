"""Targets of modules of every plugin, checked by the plan, also without ``weights``."""

from __future__ import annotations

import subprocess
import sys
import wave
from pathlib import Path

import mimo_plugin_hf_vision.names
import pytest
from lora_modules import transformers_module

from mimo_core import MimoError
from mimo_core.planning.plan import make_plan
from mimo_core.plugins import Host

RECIPE = Path(__file__).with_name("adapters.yaml")
HOST = Host.discover()
RADIO = "modules.vision.wrappers.lora"
LANGUAGE = "modules.language.wrappers.lora"
GPT = (
    "modules.language.plugin=gpt",
    "modules.language.options={hidden_size: 32, layers: 2, attention_heads: 4}",
)
LONG = "train.sequence_length=32"
SOUNDS = (
    "modules.vision.plugin=whisper",
    "modules.vision.options={hidden_size: 16, layers: 2, heads: 2}",
    "train.sequence_length=4096",
)
CASES = {
    "radio": ((), RADIO, "vit.decoder.layers.*.self_attention.linear_qkv", "linear_qvk"),
    "nemotron": ((), LANGUAGE, "*.mixer.in_proj", "in_porj"),
    "gpt": (GPT, LANGUAGE, "*.self_attention.linear_proj", "linear_porj"),
    "whisper": (SOUNDS, RADIO, "transformer.layers.1.mlp.linear_fc1", "linear_f1"),
    "hf-vision": ((), RADIO, "encoder.layers.*.self_attn.q_proj", "q_porj"),
}
"""Overrides, the module's wrapper, a pattern that names layers, and its last word misspelt."""


def overrides(plugin: str, folder: Path) -> tuple[str, ...]:
    if plugin == "whisper":
        for digit in range(10):
            with wave.open(str(folder / f"{digit}.wav"), "wb") as file:
                file.setparams((1, 2, 8000, 0, "NONE", ""))
                file.writeframes(bytes(3200))
        data = f"voices: [{folder}], shares: {{both: 0, picture: 0}}"
        return (*CASES[plugin][0], f"data={{plugin: spoken-digits, options: {{{data}}}}}")
    if plugin != "hf-vision":
        return CASES[plugin][0]
    transformers_module(folder)
    return ("modules.vision.plugin=hf-vision", f"modules.vision.options={{model: {folder}}}", LONG)


@pytest.mark.parametrize("plugin", CASES)
def test_a_target_that_names_no_layer_is_refused_with_the_nearest_names(
    plugin: str, tmp_path: Path
) -> None:
    given = overrides(plugin, tmp_path)
    _, place, right, misspelt = CASES[plugin]
    other = LANGUAGE if place == RADIO else RADIO
    given = (*given, f"{other.removesuffix('.lora')}={{}}")
    make_plan(RECIPE, (*given, f"{place}.targets=['{right}']"), HOST)
    stem, _, last = right.rpartition(".")
    wrong = f"{place}.targets=['{right}', '{stem}.{misspelt}']"
    with pytest.raises(MimoError) as caught:
        make_plan(RECIPE, (*given, wrong), HOST)
    said = str(caught.value)
    assert said.startswith(f"command line: {place}.targets=")
    assert f"'{stem}.{misspelt}' names no linear layer" in said
    assert f"Did you mean {last!r}?" in said
    assert any(name.endswith(last) for name in said.partition("Its layers: ")[2].split(", "))


def test_a_rank_above_a_layers_own_is_refused() -> None:
    with pytest.raises(MimoError, match=r"lora\.rank=40: .* rank 40 exceeds the smaller side of"):
        make_plan(RECIPE, (f"{LANGUAGE}.rank=40",), HOST)


def test_a_plugin_that_cannot_name_its_weights_leaves_targets_to_the_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = (*overrides("hf-vision", tmp_path), f"{RADIO}.targets=['nothing']")
    monkeypatch.setattr(mimo_plugin_hf_vision.names, "tensor_shapes", lambda _tower: None)
    make_plan(RECIPE, given, HOST)


def test_the_plan_has_the_names_without_torch() -> None:
    code = (
        "import sys; from mimo_core.planning.plan import make_plan; "
        f"make_plan({str(RECIPE)!r}); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
