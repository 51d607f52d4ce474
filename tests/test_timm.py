"""Importing this package beside others' programs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = [path for path in (ROOT / "fastshap_lab").iterdir() if path.is_dir() and list(path.glob("*.py"))]


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_changes_nothing_of_others():
    run("""
import sys, torch, warnings
def state():
    return [*sys.meta_path], [*sys.path_hooks], [*warnings.filters], torch.compiler.disable, sys.excepthook, sys.stdout
before = state()
import fastshap_lab as fsl
assert state() == before and "timm" not in sys.modules
fsl.load_explainer
assert "timm" in sys.modules and "torch._dynamo" not in sys.modules and "wandb" not in sys.modules
assert state() == before
import timm.utils.summary, torchvision.ops.roi_align, torchvision.tv_tensors, wandb
assert callable(wandb.init) and wandb.__spec__.loader
logged = []
wandb.log = logged.append
timm.utils.summary.wandb.log({"loss": 1})
assert logged == [{"loss": 1}]
import torch._dynamo
align = sys.modules["torchvision.ops.roi_align"]  # the attribute is the function
assert align.is_compile_supported("cpu") == torch._dynamo.utils.is_compile_supported("cpu")
image = torchvision.tv_tensors.Image(torch.zeros(3, 4, 4))
assert type(torchvision.tv_tensors.wrap(torch.ones(3, 4, 4), like=image)) is torchvision.tv_tensors.Image
""")


@pytest.mark.parametrize("first", ["timm", "lightning, wandb, torch._dynamo"])
def test_others_may_be_imported_before(first):
    # As whoever has a torchvision that fits PyTorch; where these tests run it may be one that does not.
    run(f"""
import sys, torch
try:
    import torchvision
except RuntimeError:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
import {first}
names = ("timm", "torchvision", "lightning", "wandb", "torch._dynamo")
there = {{name: module for name, module in sys.modules.items() if name.startswith(names)}}
import fastshap_lab as fsl
fsl.load_explainer, fsl.shapley_values
assert all(sys.modules[name] is module for name, module in there.items())
""")


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_packages_prepare_what_they_import(package):
    """A module that imports one of these lies in a package that has made sure that it can."""
    needs = any(
        re.search(
            r"^(import|from) (timm|torchvision|torchmetrics|lightning)\b",
            path.read_text(encoding="utf-8"),
            re.MULTILINE,
        )
        for path in package.rglob("*.py")
    )
    prepared = "from fastshap_lab import _timm" in (package / "__init__.py").read_text(encoding="utf-8")
    assert prepared == needs
