"""Import timm: beside a torchvision that does not fit PyTorch, too, and without what nothing here needs of it.

The torchvision wheel on PyPI is built for one PyTorch build (CUDA, on Linux). Beside another one (a CPU-only PyTorch,
say) its operators do not load, and importing it dies with "operator torchvision::nms does not exist": it describes two
operators to ``torch.library`` without asking whether they are there. This project, like timm, needs nothing compiled
from torchvision, so declaring their signatures is enough.

timm and torchvision import two large packages for a few functions, which serving never calls: W&B's, and those of
PyTorch's compiler, which takes as long as all the rest of PyTorch. They import them when they are called.

Packages import this before they import timm, torchvision, torchmetrics or Lightning; where somebody else has imported
timm before, it does nothing.
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
_kept: list[Any] = []  # declarations end with the library object


def _declare_missing_operators() -> None:
    spec = find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return  # nothing to mend: importing it will say that it is not there
    try:
        for library in Path(spec.submodule_search_locations[0]).glob("_C.*"):
            torch.ops.load_library(library)
    except OSError:
        declared = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            declared.define(name + _SIGNATURE)
        _kept.append(declared)


class _Late(ModuleType):
    """Stands for a module until somebody needs more of it than some functions."""

    def __init__(self, name: str, **functions: Callable[..., Any]) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)  # for those who ask whether it is installed
        self.__dict__.update(functions)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system's own questions
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
    """Import timm; who imports those packages after this finds the real ones."""
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
