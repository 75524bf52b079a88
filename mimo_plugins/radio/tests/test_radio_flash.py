"""Attention by flash-attn-4, with torch's in the place of its kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from exact_attention import each_alone
from mimo_plugin_radio import flash
from mimo_plugin_radio.flash_mend import VERSION, mend
from mimo_plugin_radio.heads import fill, side_by_side
from mimo_plugin_radio.options import Options
from mimo_plugin_radio.tower import packed

from mimo_core.testing import raises_code


@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize(
    ("size", "computed", "mended"),
    [
        *((64, 64, False), (72, 96, False), (80, 96, False), (120, 128, False)),
        *((72, 80, True), (80, 80, True), (88, 96, True)),
    ],
)
def test_heads_are_filled_up_to_sizes_that_are_computed_right(
    size: int, computed: int, mended: bool, even: bool
) -> None:
    seen = []
    lengths = (4, 4) if even else (5, 3)
    pictures = packed(lengths, even)

    def of_packed(query: Any, key: Any, value: Any, **said: Any) -> Any:
        seen.append(query.shape[-1])
        assert said["cu_seqlens_q"] is pictures.cu_seqlens_q and said["max_seqlen_k"] == 5
        return each_alone(query, key, value, lengths, said["softmax_scale"])

    def of_batch(query: Any, key: Any, value: Any, softmax_scale: float) -> Any:
        seen.append(query.shape[-1])
        assert query.shape == (2, 4, 2, computed)
        rows = (each.flatten(0, 1) for each in (query, key, value))
        return each_alone(*rows, lengths, softmax_scale).unflatten(0, (2, 4)), None

    torch.manual_seed(0)
    rows = [torch.randn(8, 2, size, requires_grad=True) for _ in range(3)]
    sizes = (64, 80, 96, 128) if mended else flash.SIZES
    output = flash.attend(*rows, pictures, flash.Kernels(of_packed, of_batch, sizes))
    expected = each_alone(*rows, lengths, size**-0.5).flatten(1)
    assert seen == [computed]
    torch.testing.assert_close(output, expected)
    upstream = torch.randn_like(output)
    torch.testing.assert_close(
        torch.autograd.grad(output, rows, upstream), torch.autograd.grad(expected, rows, upstream)
    )


KERNEL = """
import torch
from mimo_plugin_radio.head_kernels import copy_heads

torch.manual_seed(0)
for given, wanted in ((80, 96), (96, 80), (72, 128)):
    joined = torch.randn(37, 3, 2 * max(given, wanted)).bfloat16()
    source = joined[..., 5 : 5 + given]
    target = torch.full((37, 3, wanted + 7), torch.nan).bfloat16()[..., 7:]
    copy_heads(source, target)
    size = min(given, wanted)
    assert torch.equal(target[..., :size], source[..., :size])
    assert (target[..., size:] == 0).all()
"""


def test_the_kernel_copies_heads() -> None:
    """By Triton's interpreter: heads with gaps between them, filled up and cut."""
    pytest.importorskip("triton")
    run = subprocess.run(
        [sys.executable, "-c", KERNEL],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_the_kernel_moves_eight_numbers_at_once() -> None:
    """Compiled for a Hopper GPU, without one, with the sizes and gaps of ViT-H."""
    compiler = pytest.importorskip("triton.compiler")
    from mimo_plugin_radio import head_kernels
    from triton.backends.compiler import GPUTarget

    sizes = {"GIVEN": 80, "WANTED": 96, "WIDTH": 128, "ROWS": 32}
    numbers = ("total", "heads", "source_row", "source_head", "target_row", "target_head")
    types = {"source": "*bf16", "target": "*bf16", **dict.fromkeys(numbers, "i32")}
    names = [*types, *sizes]
    source = compiler.ASTSource(
        head_kernels._copy,
        {**types, **dict.fromkeys(sizes, "constexpr")},
        {(names.index(name),): size for name, size in sizes.items()},
        {(number,): [["tt.divisibility", 16]] for number, _ in enumerate(types)},
    )
    ptx = compiler.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    assert "ld.global.v4.b32" in ptx and "st.global.v4.b32" in ptx


@pytest.mark.parametrize("size", [80, 96])
def test_gradients_come_back_side_by_side(size: int) -> None:
    parts = [torch.randn(4, 2, 80, requires_grad=True) for _ in range(3)]
    outputs = side_by_side(*parts) if size == 80 else fill(*parts, size)
    upstream = [torch.randn_like(each) for each in outputs]
    gradients = torch.autograd.grad(outputs, parts, upstream)
    for found, given in zip(gradients, upstream, strict=True):
        assert torch.equal(found, given[..., :80])
    assert [each.storage_offset() for each in gradients] == [0, 80, 160]
    assert {each.stride() for each in gradients} == {(480, 240, 1)}


class Package:
    """flash-attn-4 as far as it is mended: its own functions note what they are asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.interface: Any = SimpleNamespace(
            _bwd_preprocess=self._clear, _bwd_postprocess_convert=self._read
        )

    def _clear(self, *given: Any, hdim_multiple_of: int, fake_mode: bool) -> None:
        sums, size = given[5], given[10]
        self.asked.append(("clear", sums is not None, size, hdim_multiple_of, fake_mode))

    def _read(self, *given: Any, hdim_multiple_of: int, fake_mode: bool) -> None:
        self.asked.append(("read", given[7], hdim_multiple_of, fake_mode))

    def backward(self, size: int, multiple: int, *, fake_mode: bool = False) -> torch.Tensor:
        """What it does of this size of a head; the sums, where they are not the kernels' own."""
        sums = torch.full((6,), torch.nan)
        named: dict[str, Any] = {"hdim_multiple_of": multiple, "fake_mode": fake_mode}
        tensors = [None] * 5
        self.interface._bwd_preprocess(*tensors, sums, *[None] * 4, size, size, 64, **named)
        self.interface._bwd_postprocess_convert(sums, *[None] * 6, size, 64, **named)
        return sums


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Package:
    """Of the version that is known."""
    monkeypatch.setattr("importlib.metadata.version", lambda name: VERSION)
    return Package()


def test_sums_of_heads_of_80_are_cleared_whole_and_read_as_80(package: Package) -> None:
    assert mend(package.interface)
    mended = dict(vars(package.interface))
    assert mend(package.interface) and vars(package.interface) == mended
    assert (package.backward(80, 32) == 0).all()
    assert package.asked == [("clear", False, 80, 32, False), ("read", 80, 16, False)]
    assert package.backward(80, 32, fake_mode=True).isnan().all()  # a compilation without memory


@pytest.mark.parametrize(("size", "multiple"), [(64, 32), (96, 32), (80, 64)])
def test_other_heads_are_left_to_the_kernels(package: Package, size: int, multiple: int) -> None:
    assert mend(package.interface)
    assert package.backward(size, multiple).isnan().all()
    assert package.asked == [
        ("clear", True, size, multiple, False),
        ("read", size, multiple, False),
    ]


@pytest.mark.parametrize("version", ["4.0.0b37", None])
def test_versions_that_are_not_known_are_left_alone(
    version: str | None, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among them what was copied into place."""

    def of_package(name: str) -> str:
        if version is None:
            raise metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr("importlib.metadata.version", of_package)
    before = dict(vars(package.interface))
    assert not mend(package.interface)
    assert vars(package.interface) == before


@pytest.mark.parametrize("version", [VERSION, "4.0.0b37"])
def test_heads_of_80_stay_as_they_are_where_the_version_is_known(
    version: str, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.delenv("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", raising=False)
    cute: Any = SimpleNamespace(flash_attn_varlen_func="packed", flash_attn_func="batch")
    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(cute=cute))
    monkeypatch.setitem(sys.modules, "flash_attn.cute", cute)
    monkeypatch.setitem(sys.modules, "flash_attn.cute.interface", package.interface)
    found = flash.kernels(SimpleNamespace(name="vision", megatron={}))
    assert (found.packed, found.batch) == ("packed", "batch")
    assert found.sizes == ((64, 80, 96, 128) if version == VERSION else (64, 96, 128))
    assert os.environ.pop("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED") == "1"


@pytest.mark.parametrize(("said", "kept"), [(None, True), ("1", True), ("0", False)])
def test_what_it_compiles_is_kept_though_another_imported_it_first(
    said: str | None, kept: bool, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looked at its variable when it was imported, by TransformerEngine."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    # Set first, so that it is as it was afterwards.
    monkeypatch.setenv("FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED", said or "")
    if said is None:
        del os.environ["FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED"]
    caches: Any = SimpleNamespace(CUTE_DSL_CACHE_ENABLED=False, get_jit_cache=lambda name: name)
    names = {
        "_flash_attn_fwd": "fwd",
        "_bwd_preprocess": "bwd_pre",
        "_flash_attn_bwd": "bwd",
        "_bwd_postprocess_convert": "bwd_post",
    }
    for name in names:
        function: Any = lambda: None  # noqa: E731
        function.compile_cache = "memory"
        setattr(package.interface, name, function)
    cute: Any = SimpleNamespace(flash_attn_varlen_func="packed", flash_attn_func="batch")
    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(cute=cute))
    monkeypatch.setitem(sys.modules, "flash_attn.cute", cute)
    monkeypatch.setitem(sys.modules, "flash_attn.cute.interface", package.interface)
    monkeypatch.setitem(sys.modules, "flash_attn.cute.cache_utils", caches)
    flash.kernels(SimpleNamespace(name="vision", megatron={}))
    found = {name: getattr(package.interface, name).compile_cache for name in names}
    assert found == (names if kept else dict.fromkeys(names, "memory"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"resolution": "fixed"}, "does not go with resolution=fixed"),
        ({"dropout": 0.1}, "does not go with dropout=0.1"),
        ({"heads": 8}, "does not go with heads of 160"),
    ],
)
def test_what_it_cannot_do_is_refused(options: dict[str, Any], said: str) -> None:
    given = {"size": "huge", "resolution": "dynamic", "flash_attention": True} | options
    with pytest.raises(ValueError, match=f"radio option flash_attention=true: {said}"):
        Options(**given)


def test_a_missing_package_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = SimpleNamespace(name="vision", megatron={"deterministic_mode": True})
    with raises_code("recipe.conflict", module="vision"):
        flash.kernels(module)
    module.megatron = {}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    with raises_code("radio.no-flash-attention", module="vision", compute_capability=(8, 0)):
        flash.kernels(module)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setitem(sys.modules, "flash_attn.cute", None)
    with pytest.raises(ValueError, match=r"pip install --pre 'flash-attn-4\[cu13\]'"):
        flash.kernels(module)
