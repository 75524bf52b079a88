"""Megatron's view of torch on a machine without a GPU, and nobody else's.

Megatron-core 0.19 calls ``torch.cuda`` and ``device="cuda"`` throughout. Patching torch itself
would make every library in the process, and torch's own optimizers, believe in a GPU. So the
stand-in is put where Megatron looks, and nowhere else: every ``megatron.*`` module is executed
with an ``__import__`` of its own, for which ``torch`` is a facade whose ``cuda`` is the
:class:`~mimo_core.platforms.cpu.cuda_api.DeviceApi`. Being bound to the modules and not to a
thread or a dispatch mode, it holds in every thread.

Methods cannot be given per module; the few that Megatron uses (``cuda``, ``to``, ``pin_memory``
and ``type`` of tensors, ``cuda`` of modules) look at who calls.
"""

from __future__ import annotations

import builtins
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch

from mimo_core.errors import MimoError
from mimo_core.platforms.cpu.cuda_api import (
    CPU,
    TENSOR_TYPE_NAMES,
    DeviceApi,
    is_cuda_device,
    on_cpu,
)

PACKAGE = "megatron"

_GPU_ONLY = frozenset({"transformer_engine", "apex"})
"""Megatron prefers these to its own layers wherever they can be imported."""

_FACTORIES = [
    "arange",
    "as_tensor",
    "empty",
    "empty_like",
    "eye",
    "full",
    "full_like",
    "linspace",
    "ones",
    "ones_like",
    "rand",
    "rand_like",
    "randint",
    "randn",
    "randn_like",
    "randperm",
    "scalar_tensor",
    "tensor",
    "zeros",
    "zeros_like",
]


class TorchFacade(types.ModuleType):
    """``torch`` with another ``cuda``, and factories that take ``device="cuda"``."""

    def __init__(self) -> None:
        super().__init__("torch", torch.__doc__)
        self.cuda = DeviceApi()
        self.compile = _eager
        for name in _FACTORIES:
            setattr(self, name, on_cpu(getattr(torch, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _eager(function: Any = None, **_options: Any) -> Any:
    """``torch.compile``, a decorator too, that compiles nothing: dynamo asks the GPU driver for
    streams, and its import takes a second of every start."""
    return _eager if function is None else function


def install() -> None:
    """Give Megatron its view of torch in this process. Call before megatron is imported.

    Raises:
        MimoError: a megatron module is imported already and keeps the torch it saw.
    """
    if any(isinstance(finder, _MegatronFinder) for finder in sys.meta_path):
        return
    early = sorted(name for name in sys.modules if _is_megatron(name))
    if early:
        raise MimoError(
            f"the CPU platform must be installed before megatron is imported, but {early[0]} and "
            f"{len(early) - 1} other modules are; import megatron inside functions",
            code="platform.megatron-imported",
            modules=tuple(early),
        )
    sys.meta_path.insert(0, _MegatronFinder(_namespace_builtins(TorchFacade())))
    _answer_methods()


def _is_megatron(module: str) -> bool:
    return module == PACKAGE or module.startswith(PACKAGE + ".")


def _namespace_builtins(facade: TorchFacade) -> dict[str, Any]:
    """Builtins whose ``__import__`` gives the facade for torch."""
    substitutes: dict[str, types.ModuleType] = {"torch": facade, "torch.cuda": facade.cuda}

    def import_(
        name: str,
        globals: Any = None,
        locals: Any = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> types.ModuleType:
        if not level and name.partition(".")[0] in _GPU_ONLY:
            raise ModuleNotFoundError(f"{name} is for GPUs; this rank runs on the CPU", name=name)
        module = builtins.__import__(name, globals, locals, fromlist or (), level)
        if level or not (name == "torch" or name.startswith("torch.")):
            return module
        # `import torch.x` binds the top package, `from torch.x import y` the named module.
        return substitutes.get(name, module) if fromlist else facade

    return {**vars(builtins), "__import__": import_}


class _MegatronFinder(importlib.abc.MetaPathFinder):
    """Finds megatron's modules as usual and has them executed with other builtins."""

    def __init__(self, namespace_builtins: dict[str, Any]) -> None:
        self._builtins = namespace_builtins

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not _is_megatron(fullname):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _MegatronLoader(spec.loader, self._builtins)
        return spec


class _MegatronLoader(importlib.machinery.SourceFileLoader):
    def __init__(
        self, loader: importlib.machinery.SourceFileLoader, namespace_builtins: dict[str, Any]
    ) -> None:
        super().__init__(loader.name, loader.path)
        self._builtins = namespace_builtins

    def exec_module(self, module: types.ModuleType) -> None:
        module.__dict__["__builtins__"] = self._builtins
        super().exec_module(module)


def _called_by_megatron() -> bool:
    """Whether the caller of the method is a megatron module."""
    return _is_megatron(sys._getframe(2).f_globals.get("__name__", ""))


def _answer_methods() -> None:
    tensor: Any = torch.Tensor
    to: Callable[..., Any] = tensor.to
    cuda: Callable[..., Any] = tensor.cuda
    pin_memory: Callable[..., Any] = tensor.pin_memory
    type_: Callable[..., Any] = tensor.type

    module: Any = torch.nn.Module
    module_cuda: Callable[..., Any] = module.cuda

    def answer_module_cuda(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        return self if _called_by_megatron() else module_cuda(self, *args, **kwargs)

    def answer_to(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        device = args[0] if args else kwargs.get("device")
        if is_cuda_device(device) and _called_by_megatron():
            if args:
                args = (CPU, *args[1:])
            else:
                kwargs["device"] = CPU
        return to(self, *args, **kwargs)

    def answer_cuda(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return self if _called_by_megatron() else cuda(self, *args, **kwargs)

    def answer_pin_memory(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return self if _called_by_megatron() else pin_memory(self, *args, **kwargs)

    def answer_type(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if not args and not kwargs and _called_by_megatron():
            return TENSOR_TYPE_NAMES.get(self.dtype, type_(self))
        return type_(self, *args, **kwargs)

    module.cuda = answer_module_cuda
    tensor.to, tensor.cuda = answer_to, answer_cuda
    tensor.pin_memory, tensor.type = answer_pin_memory, answer_type
