"""Let torchvision import beside a PyTorch that its compiled operators do not fit.

The torchvision wheel on PyPI is built for one PyTorch build (CUDA, on Linux). Beside another one (a CPU-only PyTorch,
say) its operators do not load, and importing it dies with "operator torchvision::nms does not exist": it describes two
operators to ``torch.library`` without asking whether they are there. This project, like timm, needs nothing compiled
from torchvision, so declaring their signatures is enough.

That happens when torchvision is first looked for, by whomever: ``import fastshap_lab`` need not wait for PyTorch.
"""

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept: list[Any] = []  # declarations end with the library object


class _BeforeTorchvision(MetaPathFinder):
    """Finds nothing; acts once, before torchvision is found."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == "torchvision" and self in sys.meta_path:
            sys.meta_path.remove(self)
            _declare_missing_operators()
        return None


def _declare_missing_operators() -> None:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return  # nothing to mend: importing it will say that it is not there
    import torch

    try:
        for library in Path(spec.submodule_search_locations[0]).glob("_C.*"):
            torch.ops.load_library(library)
    except OSError:
        declared = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            declared.define(name + _SIGNATURE)
        _kept.append(declared)


def install() -> None:
    """Be there before torchvision."""
    sys.meta_path.insert(0, _BeforeTorchvision())
