"""What Python's collector looks at while a run trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import installed, start, wrapping


def test_what_is_built_is_looked_at_in_the_first_step_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLECTOR", str(tmp_path / "seen"))
    site = tmp_path / "site"
    site.mkdir()
    overrides = [*wrapping("collector", "vision"), "train.iterations=2", "evaluate.samples=4"]
    run = start("tiny", *overrides, folder=tmp_path / "run", site=installed("collector", site))
    assert run.code == 0, run.screen + run.errors
    lines = (tmp_path / "seen").read_text().splitlines()
    (seen, kept), *_, (later, kept_later) = (map(int, line.split()) for line in lines)
    assert later < seen / 2
    assert kept_later > kept + seen / 2
