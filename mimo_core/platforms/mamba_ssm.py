"""mamba-ssm's kernels without the language model that its package brings along.

Megatron imports ``mamba_ssm`` for its kernels, and the package (2.3.2, ``mamba_ssm/__init__.py``)
imports a model that writes text: with it transformers' generation, and where they are installed
scikit-learn, scipy and pandas. On an H200's host that was 3.4 of the 12 s that a rank imports for.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from contextlib import suppress
from types import ModuleType
from typing import Any

_PACKAGE = "mamba_ssm"
_MODEL = f"{_PACKAGE}.models.mixer_seq_simple"
_NAME = "MambaLMHeadModel"


def import_kernels() -> None:
    """Import ``mamba_ssm``, where it is installed, so that its model is imported by whoever wants
    it: by ``mamba_ssm.MambaLMHeadModel`` or the model's own module, as ever.

    A package that cannot be imported is left to who needs it.
    """
    if {_PACKAGE, _MODEL} & set(sys.modules) or importlib.util.find_spec(_PACKAGE) is None:
        return
    placeholder = ModuleType(_MODEL)
    vars(placeholder)[_NAME] = None
    sys.modules[_MODEL] = placeholder
    try:
        with suppress(Exception):
            package = importlib.import_module(_PACKAGE)
            if vars(package).get(_NAME, placeholder) is None:
                delattr(package, _NAME)
                vars(package)["__getattr__"] = _model
    finally:
        if sys.modules.get(_MODEL) is placeholder:
            del sys.modules[_MODEL]


def _model(name: str) -> Any:
    if name != _NAME:
        raise AttributeError(f"module {_PACKAGE!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODEL), _NAME)


__all__ = ["import_kernels"]
