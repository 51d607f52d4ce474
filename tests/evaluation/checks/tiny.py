"""An evaluation of two tiny pipelines, one of a ResNet with all stages and one that is a ViT alone."""

from pathlib import Path

from rich.console import Console

from fastshap_lab.attribution import METHODS
from fastshap_lab.evaluation.base import Evaluation, Pipeline, Report
from fastshap_lab.runs.execute import execute
from tests.small_runs import TINY, UNET, planned

ASKED = [
    "evaluate={images: 6, bootstrap: 50}",
    "surrogate.epochs=1",
    "explainer.epochs=1",
    "evaluate.pipelines={A: {classifier: resnet_slim, surrogate: resnet_slim, explainer: unet_slim, "
    "overrides: ['classifier.params.channels=[4,4,8,8]', 'surrogate.params.channels=[4,4,8,8]']}, "
    "B: {classifier: vit_slim, overrides: ['classifier.params={width: 8, depth: 2, num_heads: 2, mlp_width: 8}']}}",
]
NAMES = ("random", "saliency", "grad_cam")
METHODS_OF = {
    "A": {name: METHODS[name] for name in NAMES},
    "B": {name: METHODS[name] for name in ("random", "rollout")},
}


def tiny_evaluation(runs_dir: Path, *overrides: str) -> Evaluation:
    """Train what is evaluated, and load it."""
    runs = planned(f"runs_dir={runs_dir}", *ASKED, *overrides, base=[*TINY, *UNET])
    execute(runs[:-1], Console(quiet=True))
    run = runs[-1]
    run.begin()
    pipelines = [Pipeline.load(run, name, end) for name, end in run.parents.items()]
    return Evaluation(run, pipelines, Report(run.folder))
