"""Names of layers, without torch; and that nobody else knows of adapters."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
from lora_modules import HOST, LANGUAGE, VISION, lora
from mimo_plugin_lora.names import numbered, split_key

from mimo_core import WeightMap

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("key", "index", "name"),
    [
        ("decoder.layers.mlp.linear_fc1", (3,), "decoder.layers.3.mlp.linear_fc1"),
        ("decoder.layers.3.mlp.linear_fc1", (), "decoder.layers.3.mlp.linear_fc1"),
        (
            "decoder.layers.mlp.experts.experts.fc1",
            (3, 5),
            "decoder.layers.3.mlp.experts.experts.5.fc1",
        ),
        (
            "decoder.layers.3.mlp.experts.experts.fc1",
            (5,),
            "decoder.layers.3.mlp.experts.experts.5.fc1",
        ),
        (
            "modality_submodules.layers.encoders.layers.fc1",
            (3,),
            "modality_submodules.layers.encoders.layers.3.fc1",
        ),
        ("blocks.fc1", (3,), "blocks.fc1.3"),
    ],
)
def test_a_name_has_the_numbers_that_a_key_leaves_out(key, index, name):
    assert numbered(key, index) == name


@pytest.mark.parametrize(
    ("key", "split"),
    [
        ("a.in_proj.weight", ("a.in_proj", "")),
        ("a.in_proj.weight.dt", ("a.in_proj", ".dt")),
        ("a.in_proj.layer_norm_weight", None),
        ("a.class_token", None),
    ],
)
def test_a_weight_may_be_saved_in_pieces(key, split):
    assert split_key(key) == split


def adapted(module, *targets) -> WeightMap:
    return HOST.ask(
        "weight_map", module.plugin, module=attrs.evolve(module, wrappers=lora(*targets))
    )


def test_the_map_of_weights_has_adapters_in_no_file():
    plain = HOST.ask("weight_map", "nemotron", module=LANGUAGE)
    wrapped = adapted(LANGUAGE, "*.in_proj")
    assert [rule.files for rule in wrapped.rules] == [rule.files for rule in plain.rules]
    (rule,) = [rule for rule in wrapped.rules if len(rule.stored) > 6]
    added = {stored.key.rpartition("in_proj.")[2]: stored.shape for stored in rule.stored[5:]}
    assert added["lora_a"] == (8, 32) and added["lora_b.dt"] == (4, 8) and len(added) == 6


def test_only_the_parts_that_are_named_are_adapted_and_do_not_learn():
    wrapped = attrs.evolve(VISION, wrappers=lora("encoder*", parts=("projector",)))
    description = HOST.ask("describe", "radio", module=wrapped)
    assert {weights.part for weights in description.weights if weights.frozen} == {"projector"}
    rules = HOST.ask("weight_map", "radio", module=wrapped).rules
    assert {rule.part for rule in rules if any("lora" in s.key for s in rule.stored)} == {
        "projector"
    }


def test_no_line_of_the_core_or_of_another_plugin_knows_it():
    for source in (ROOT / "mimo_core").rglob("*.py"):
        assert not re.search(r"lora", source.read_text(), re.IGNORECASE), source
    for folder in (ROOT / "mimo_plugins").iterdir():
        for source in folder.rglob("*.py") if folder.name != "lora" else ():
            assert not re.search(r"lora", source.read_text(), re.IGNORECASE), source


def test_it_imports_of_the_core_what_is_public_and_no_torch_at_listing():
    for source in (ROOT / "mimo_plugins" / "lora" / "mimo_plugin_lora").glob("*.py"):
        found = set(re.findall(r"from (mimo_core[\w.]*) import", source.read_text()))
        assert found <= {"mimo_core", "mimo_core.building"}, source
    code = "import sys, mimo_plugin_lora.plugin as _; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
