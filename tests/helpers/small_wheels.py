"""Wheels of plugins of one module, as a build backend would make them."""

from __future__ import annotations

import zipfile
from pathlib import Path


def small_wheel(
    folder: Path, plugin: str, code: str, *, version: str = "1.0", distribution: str = ""
) -> Path:
    """A wheel with one module that the entry point ``plugin`` names.

    Args:
        folder: Where it is put.
        plugin: Name of the entry point.
        code: Of the module.
        version: Of the distribution.
        distribution: ``mimo-plugin-NAME`` by default.
    """
    distribution = distribution or f"mimo-plugin-{plugin}"
    name = distribution.replace("-", "_")
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": code,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[mimo.plugins]\n{plugin} = {name}\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in (*files, f"{info}/RECORD"))
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel
