"""Imports timm with a torchvision that does not fit PyTorch, too, and without two slow packages that are not needed.

The torchvision wheel on PyPI is built for one build of PyTorch (on Linux for CUDA). With another build, for example a
CPU-only PyTorch, its operators cannot be loaded, and importing it fails with "operator torchvision::nms does not
exist", since it registers two operators with ``torch.library`` without checking that they exist. Neither this project
nor timm needs compiled operators of torchvision, so declaring their signatures is enough.

timm and torchvision import two large packages for a few functions that serving never calls: W&B, and PyTorch's
compiler, whose import takes as long as the rest of PyTorch. Stand-ins import these packages when one of the functions
is called.

Packages import this module before timm, torchvision, torchmetrics or Lightning. It does nothing if timm is imported
already.
"""

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept: list[Any] = []  # library objects, whose declarations would end with them


def _declare_missing_operators() -> None:
    spec = find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return  # torchvision is not installed; importing it will say so
    try:
        for library in Path(spec.submodule_search_locations[0]).glob("_C.*"):
            torch.ops.load_library(library)
    except OSError:
        declared = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            declared.define(name + _SIGNATURE)
        _kept.append(declared)


class _Late(ModuleType):
    """Stand-in for a module with some of its functions, until another attribute of the module is used."""

    def __init__(self, name: str, **functions: Callable[..., Any]) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)  # for code that checks whether the module is installed
        self.__dict__.update(functions)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # attributes that the import system looks up
            raise AttributeError(name)
        _step_aside()
        return getattr(import_module(self.__name__), name)


def _step_aside() -> None:
    for name in [name for name, module in sys.modules.items() if isinstance(module, _Late)]:
        del sys.modules[name]


def _called_late(module: str, name: str) -> Callable[..., Any]:
    return lambda *args, **kwargs: getattr(import_module(module), name)(*args, **kwargs)


def _disabled_late(fn: Any = None, recursive: bool = True, **_: Any) -> Any:
    return torch._compile._disable_dynamo(fn, recursive)


def _import() -> None:
    """Import timm with the stand-ins; later imports of those packages find the real ones."""
    late = [
        _Late("wandb", log=_called_late("wandb", "log")),
        _Late("torch._dynamo", disable=_disabled_late),
        _Late("torch._dynamo.utils", is_compile_supported=_called_late("torch._dynamo.utils", "is_compile_supported")),
    ]
    for module in late:
        if module.__name__ not in sys.modules and find_spec(module.__name__.partition(".")[0]):
            sys.modules[module.__name__] = module
    try:
        import_module("timm")
    finally:
        _step_aside()


if "timm" not in sys.modules:
    if "torchvision" not in sys.modules:
        _declare_missing_operators()
    _import()
