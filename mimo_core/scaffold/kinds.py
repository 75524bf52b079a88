"""The kinds of plugins that can be begun: a folder of templates for each."""

from __future__ import annotations

from collections.abc import Mapping

import attrs


@attrs.frozen(kw_only=True)
class Kind:
    """What the templates of a kind need besides names."""

    summary: str
    dependencies: tuple[str, ...] = ("attrs",)
    """Of the distribution, besides mimo-core."""
    tested_with: tuple[str, ...] = ()
    """What its tests need, besides pytest."""
    package_data: tuple[str, ...] = ("py.typed",)


KINDS: Mapping[str, Kind] = {
    "encoder": Kind(
        summary="Image encoder plugin for mimo-core", dependencies=("attrs", "numpy", "torch")
    ),
    "language": Kind(
        summary="Language model plugin for mimo-core", dependencies=("attrs", "torch")
    ),
    "dataset": Kind(summary="Dataset plugin for mimo-core", package_data=("py.typed", "*.csv")),
    "wrapper": Kind(
        summary="Plugin for mimo-core that changes the modules of others",
        dependencies=("attrs", "torch"),
        tested_with=("mimo-plugin-radio",),
    ),
}
