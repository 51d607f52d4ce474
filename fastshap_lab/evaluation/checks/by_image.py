"""What checks share that look at one image after another: ViT-CX, and results that are kept."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastshap_lab.attribution.vit_cx import ViTCX
from fastshap_lab.components import build
from fastshap_lab.evaluation.base import Evaluation, Pipeline

_PART = 8  # images whose results are kept together


def vit_cx(evaluation: Evaluation, module: nn.Module, **changes: Any) -> ViTCX:
    """Return ViT-CX on a module, with the arguments of the method ``vit_cx`` if that is chosen, and some changed."""
    chosen = evaluation.run.config.evaluate.methods.get("vit_cx")
    params = (chosen.params if chosen else {}) | changes
    return build({"vit_cx": ViTCX}, "evaluate.methods.vit_cx", "vit_cx", params, model=module)


def with_vit_cx(evaluation: Evaluation) -> tuple[list[Pipeline], list[str]]:
    """Return the pipelines that ViT-CX applies to, and for each of the others a sentence that says why it does not."""
    reasons = [(pipeline, ViTCX.supports(pipeline.classifier)) for pipeline in evaluation.pipelines]
    refused = [f"Not applicable to {pipeline.name}: {reason}." for pipeline, reason in reasons if reason is not None]
    return [pipeline for pipeline, reason in reasons if reason is None], refused


def of_images(
    evaluation: Evaluation, number: int, *place: str, make: Callable[[slice], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Return what is made of the first judged images, some at a time, each time kept.

    Args:
        evaluation: Gives the images.
        number: Most images.
        place: Folders of the files.
        make: Takes places among the judged images and returns tensors, the first axis of which are these.
    """
    number = min(number, len(evaluation.judged))
    parts = []
    for start in range(0, number, _PART):
        chosen = slice(start, min(start + _PART, number))
        parts.append(evaluation.kept(*place, f"{start:05d}", make=lambda chosen=chosen: make(chosen)))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
