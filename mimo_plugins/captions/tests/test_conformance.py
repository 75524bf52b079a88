"""What the host expects of the plugin: lines with one image, several, none."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from caption_files import write_lines, write_picture

from mimo_core.testing import Conformance


class TestCaptions(Conformance):
    plugin = "captions"
    kind = "dataset"
    options: ClassVar[dict[str, Any]] = {"held_out": 0.3}

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def written(cls, tmp_path_factory: pytest.TempPathFactory) -> None:
        """A file of captions, which the options name."""
        folder = tmp_path_factory.mktemp("captions")
        lines: list[dict[str, Any]] = []
        for number in range(12):
            images = [f"{number}-{at}.png" for at in range(number % 3)]
            for image in images:
                write_picture(folder / image, 8 + number, 12)
            lines.append({"id": f"{number}", "images": images, "text": "a" * (number + 1)})
        cls.options = {**cls.options, "file": str(write_lines(folder / "captions.jsonl", lines))}
