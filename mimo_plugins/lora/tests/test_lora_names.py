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

from mimo_core import MimoError, ParamMappings

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


def adapted(module, *targets, **options) -> ParamMappings:
    wrapped = attrs.evolve(module, wrappers=lora(*targets, **options))
    return HOST.call_hook("param_mappings", module.plugin, module=wrapped)


def test_the_map_of_weights_has_adapters_in_no_file():
    plain = HOST.call_hook("param_mappings", "nemotron", module=LANGUAGE)
    wrapped = adapted(LANGUAGE, "*.in_proj")
    assert [rule.files for rule in wrapped.rules] == [rule.files for rule in plain.rules]
    (rule,) = [rule for rule in wrapped.rules if len(rule.tensors) > 6]
    added = {stored.key.rpartition("in_proj.")[2]: stored.shape for stored in rule.tensors[5:]}
    assert added["lora_a"] == (8, 32) and added["lora_b.dt"] == (4, 8) and len(added) == 6


def test_a_rank_above_the_layers_own_is_refused_with_both():
    """Of all the pieces that a weight is saved in together: ``dt`` alone has 4 rows."""
    assert adapted(LANGUAGE, "*.in_proj", rank=32)
    with pytest.raises(MimoError) as caught:
        adapted(LANGUAGE, "*.in_proj", rank=33)
    assert caught.value.path == ("modules", "language", "wrappers", "lora", "rank")
    assert (
        "rank 33 exceeds the smaller side of 'decoder.layers.0.mixer.in_proj', which is 164 x 32 "
        "(out x in): no sum of its adapter has a rank above 32"
    ) in str(caught.value)


def test_the_plan_is_told_that_adapters_come_on_top():
    wrapped = attrs.evolve(VISION, wrappers=lora("*linear_fc1", "*linear_fc2", rank=4))
    (note,) = HOST.call_hook("describe_module", "radio", module=wrapped).notes
    assert note.startswith("adapters of rank 4 on *linear_fc1, *linear_fc2 come on top")
    assert "4 x (in + out) parameters" in note


def test_only_the_parts_that_are_named_are_adapted_and_do_not_learn():
    wrapped = attrs.evolve(VISION, wrappers=lora("encoder*", parts=("projector",)))
    description = HOST.call_hook("describe_module", "radio", module=wrapped)
    assert {weights.component for weights in description.parameters if weights.frozen} == {
        "projector"
    }
    rules = HOST.call_hook("param_mappings", "radio", module=wrapped).rules
    assert {rule.component for rule in rules if any("lora" in s.key for s in rule.tensors)} == {
        "projector"
    }


def test_no_line_of_the_core_or_of_another_plugin_knows_it():
    # Megatron's own flags, and keys of other projects that errors translate.
    others = {ROOT / "mimo_core" / "recipe" / name for name in ("megatron_flags.py", "aliases.py")}
    for source in {*(ROOT / "mimo_core").rglob("*.py")} - others:
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
