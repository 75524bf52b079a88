"""Towers against transformers, on a rank of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hf_tiny import CONFIGS, LANGUAGE_WIDTH, write_model

from mimo_core.testing import config_cases, run_ranks

RANKS = Path(__file__).with_name("hf_ranks.py")


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("models")
    for name in CONFIGS:
        write_model(folder / name, name)
    found: dict[str, Any] = run_ranks(f"{RANKS}:one_rank", folder=str(folder))[0]
    return found


@pytest.fixture(params=list(CONFIGS))
def case(request: pytest.FixtureRequest, facts: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = facts["cases"][request.param]
    return found


def test_rows_equal_those_of_transformers(case: dict[str, Any]) -> None:
    """The same module of the same weights on the same CPU: the same numbers."""
    assert case["gap"] == 0
    assert case["exported_gap"] == 0  # of a model of the config that is exported
    assert case["size"] > 0.5


def test_gradients_equal_those_of_transformers(case: dict[str, Any]) -> None:
    assert len(case["gradients"]) > 30
    assert case["largest"] > 0.5
    assert {name: gap for name, gap in case["gradients"].items() if gap} == {}


def test_rows_are_as_described(case: dict[str, Any]) -> None:
    assert case["rows"] == case["expected_rows"]
    assert case["projected"] == [case["rows"][0], LANGUAGE_WIDTH]


def test_description_counts_every_parameter(case: dict[str, Any]) -> None:
    assert case["parameters"] == case["described"]


def test_flops_are_those_that_rows_depend_on(case: dict[str, Any]) -> None:
    assert case["told_flops"][0] == case["flops"]


def test_the_weight_map_names_all_that_is_in_the_checkpoint(case: dict[str, Any]) -> None:
    assert case["unnamed"] == []


def test_what_no_row_depends_on_does_not_learn(facts: dict[str, Any]) -> None:
    cases = facts["cases"]
    assert cases["clip"]["still"] == ["model.post_layernorm.bias", "model.post_layernorm.weight"]
    assert cases["dinov2"]["still"] == ["model.embeddings.mask_token"]
    assert {name.split(".")[1] for name in cases["siglip"]["still"]} == {"head"}
    behind = {name.split(".")[1] for name in cases["clip-vision"]["still"]}
    assert behind == {"encoder", "post_layernorm"}
    for name, found in cases.items():
        assert len(found["zero"]) == len(found["still"]), name
        if name != "vit":  # of which the plan has names from files alone
            assert found["described_still"] == found["still_parameters"], name


def test_the_seed_alone_decides_the_first_weights(facts: dict[str, Any]) -> None:
    """So data-parallel ranks, which have one seed, begin alike."""
    assert facts["seeds"] == [True, False]


def test_bf16_rows_stay_in_it(facts: dict[str, Any]) -> None:
    assert facts["bf16"] == ["torch.bfloat16"] * 2


def test_a_file_names_no_kernels(facts: dict[str, Any]) -> None:
    """transformers downloads those of the Hub and runs their code."""
    first, *others, by_option = facts["attention"]
    assert others == [first] * 4 and by_option == "eager" != first


def test_config_is_readable_outside_the_grid(facts: dict[str, Any]) -> None:
    assert facts["outside"] == 16


def test_owned_fields_are_fields_of_megatrons_config(facts: dict[str, Any]) -> None:
    assert facts["unknown_fields"] == []


def test_changed_configs_give_the_rows_of_transformers_or_are_refused_by_name(
    facts: dict[str, Any],
) -> None:
    """A small part of what ``test_hf_config`` tries."""
    changed = facts["changed"]
    assert config_cases.wrong(changed, 1e-12) == {}
    assert sum("difference" in case for case in changed.values()) == 9
    assert sum("refused" in case for case in changed.values()) == 3


def test_tables_of_keys_are_those_of_transformers_classes(facts: dict[str, Any]) -> None:
    assert facts["tables"] == {}


def test_pixels_equal_those_of_transformers_processors(facts: dict[str, Any]) -> None:
    """Each key deleted and changed in turn: the same pixels, or refused with the key's name."""
    found = facts["processors"]
    assert found["faults"] == []
    assert found["equal"] > 300
    read = {"size", "crop_size", "do_resize", "do_center_crop", "resample"}
    read |= {"rescale_factor", "image_mean", "image_std"}
    only = {"do_pad", "data_format", "input_data_format"}
    tiles = {"image_grid_pinpoints", "max_image_tiles", "do_image_splitting", "do_pan_and_scan"}
    others = {"offset", "rescale_offset", "do_flip_channel_order", "do_reduce_labels"}
    others |= {"use_square_size", "size_divisor", "crop_pct", "min_pixels"}
    # Of DINOv3, which transformers has with torchvision only.
    assert {*found["refused"]} - {"do_rescale"} == read | only | tiles | others


def test_processors_are_described_as_transformers_has_them(facts: dict[str, Any]) -> None:
    assert facts["processors"]["tables"] == []
