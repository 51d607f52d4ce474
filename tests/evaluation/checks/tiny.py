"""An evaluation of two tiny pipelines, one of a ResNet with all stages and one that is a ViT alone."""

from pathlib import Path

from rich.console import Console

from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.runs.execute import execute
from fastshap_lab.stages.evaluate import evaluation_of
from tests.small_runs import TINY, UNET, planned

ASKED = [
    "evaluate={images: 6, bootstrap: 50}",
    "method=[saliency,grad_cam,rollout]",
    "surrogate.epochs=1",
    "explainer.epochs=1",
    "evaluate.pipelines={A: {classifier: resnet_slim, surrogate: resnet_slim, explainer: unet_slim, "
    "overrides: ['classifier.params.channels=[8,8,8,8]', 'surrogate.params.channels=[8,8,8,8]']}, "
    "B: {classifier: vit_slim, overrides: ['classifier.params={width: 8, depth: 2, num_heads: 2, mlp_width: 8}']}}",
]


def tiny_evaluation(runs_dir: Path, *overrides: str) -> Evaluation:
    """Train what is evaluated, and load it."""
    runs = planned(f"runs_dir={runs_dir}", *ASKED, *overrides, base=[*TINY, *UNET])
    execute(runs[:-1], Console(quiet=True))
    run = runs[-1]
    run.begin()
    return evaluation_of(run)
