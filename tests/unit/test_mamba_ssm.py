"""The package of Mamba's kernels is imported without its language model, which stays to be had."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from mimo_core.platforms.cuda import CudaPlatform
from mimo_core.platforms.mamba_ssm import import_kernels
from mimo_core.platforms.triton.autotuner import TritonTuning

INSTALLED = importlib.util.find_spec("mamba_ssm")
FILES = {
    "__init__.py": "from mamba_ssm.ops import scan\n"
    "from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel\n",
    "ops.py": "scan = 'kernel'\n",
    "models/__init__.py": "",
    "models/mixer_seq_simple.py": "class MambaLMHeadModel: pass\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Laid out as mamba-ssm is."""
    for name, text in FILES.items():
        file = tmp_path / "mamba_ssm" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.partition(".")[0] == "mamba_ssm"]:
        monkeypatch.delitem(sys.modules, name)
    yield tmp_path / "mamba_ssm"
    for name in [name for name in sys.modules if name.partition(".")[0] == "mamba_ssm"]:
        del sys.modules[name]


def test_the_model_is_imported_by_who_wants_it_alone(package: Path) -> None:
    import_kernels()
    import mamba_ssm

    assert mamba_ssm.scan == "kernel"
    assert "mamba_ssm.models.mixer_seq_simple" not in sys.modules
    from mamba_ssm import MambaLMHeadModel
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel as same

    assert MambaLMHeadModel is same is mamba_ssm.MambaLMHeadModel
    assert isinstance(MambaLMHeadModel, type)
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = mamba_ssm.nonsense


def test_a_package_that_brings_no_model_is_as_it_is(package: Path) -> None:
    (package / "__init__.py").write_text("from mamba_ssm.ops import scan\n")
    import_kernels()
    import mamba_ssm

    assert not hasattr(mamba_ssm, "MambaLMHeadModel")
    assert "__getattr__" not in vars(mamba_ssm)


def test_a_broken_package_fails_where_it_is_needed(package: Path) -> None:
    (package / "ops.py").write_text("raise OSError('undefined symbol')\n")
    import_kernels()
    assert "mamba_ssm.models.mixer_seq_simple" not in sys.modules
    with pytest.raises(OSError, match="undefined symbol"):
        import mamba_ssm  # noqa: F401


def test_ranks_on_gpus_import_it_so(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_AUTOTUNING", "1")
    monkeypatch.setenv("TRITON_CACHE_DIR", "/kept")
    monkeypatch.setattr(TritonTuning, "install", lambda _: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _device: None)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    CudaPlatform(0, transformer_engine=False)
    assert "mamba_ssm.ops" in sys.modules
    assert "mamba_ssm.models.mixer_seq_simple" not in sys.modules


@pytest.mark.skipif(INSTALLED is None, reason="mamba-ssm is for GPUs")
def test_mamba_ssm_still_brings_its_model() -> None:
    source = Path(str(INSTALLED.origin)).read_text()
    assert "from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel" in source, (
        "platforms/mamba_ssm.py can go"
    )
