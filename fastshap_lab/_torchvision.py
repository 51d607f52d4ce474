"""Let torchvision import beside a PyTorch that its compiled operators do not fit.

The torchvision wheel on PyPI is built for one PyTorch build (CUDA, on Linux). Beside another one (a CPU-only PyTorch,
say) its operators do not load, and importing it dies with "operator torchvision::nms does not exist": it describes two
operators to ``torch.library`` without asking whether they are there. This project, like timm, needs nothing compiled
from torchvision, so declaring their signatures is enough. Must run before the first import of timm or torchvision.
"""

import importlib.util
from pathlib import Path

import torch

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def _operators_load() -> bool:
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return True  # nothing to mend: importing it will say that it is not there
    for library in Path(spec.submodule_search_locations[0]).glob("_C.*"):
        try:
            torch.ops.load_library(library)
        except OSError:
            return False
    return True


if not _operators_load():
    _library = torch.library.Library("torchvision", "FRAGMENT")  # kept alive: its definitions end with it
    for _name in ("nms", "qnms"):
        _library.define(_name + _SIGNATURE)
