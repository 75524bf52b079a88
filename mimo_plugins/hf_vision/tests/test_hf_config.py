"""Every key of a tower's ``config.json``, left out and changed: transformers' rows, or refused by
name."""

from __future__ import annotations

from typing import Any

import pytest
from mimo_plugin_hf_vision.config_tables import KEYS

from mimo_core.testing import config_cases

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return config_cases.compared(__file__, folder=str(tmp_path_factory.mktemp("towers")))


@pytest.mark.parametrize("kind", KEYS)
def test_each_key_left_out_or_changed_gives_the_same_rows_or_is_refused_by_name(
    compared: dict[str, Any], kind: str
) -> None:
    """Rows are exactly equal, since the tower is the module of transformers."""
    cases = compared[kind]
    assert config_cases.wrong(cases, 1e-12) == {}
    assert sum("refused" in case for case in cases.values()) > 20
    assert sum("difference" in case for case in cases.values()) > 20
