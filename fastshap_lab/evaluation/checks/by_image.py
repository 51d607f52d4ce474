"""Functions for checks that process one image after another: ViT-CX, and results that are cached."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fastshap_lab.attribution import METHODS
from fastshap_lab.attribution.vit_cx import ViTCX
from fastshap_lab.components import build
from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.pipeline import Pipeline
from fastshap_lab.evaluation.section import Section
from fastshap_lab.runs.sources import identity

_PART = 8  # number of images whose results are one entry of the store


def vit_cx(evaluation: Evaluation, module: nn.Module, **changes: Any) -> ViTCX:
    """Return ViT-CX for a module. Its arguments are those of the first chosen method that is ViT-CX, if there is one.

    Args:
        evaluation: The evaluation that the methods were chosen for.
        module: Network to explain.
        changes: Arguments that replace the method's own.
    """
    params = vit_cx_params(evaluation) | changes
    return build({"vit_cx": ViTCX}, "evaluate.methods.vit_cx", "vit_cx", params, model=module)


def vit_cx_params(evaluation: Evaluation) -> dict[str, Any]:
    """Return the arguments of the first chosen method that is ViT-CX, empty if none is."""
    chosen = [one.params for one in evaluation.settings.methods.values() if METHODS[one.name] is ViTCX]
    return dict(chosen[0]) if chosen else {}


def vit_cx_key(evaluation: Evaluation, **changes: Any) -> dict[str, Any]:
    """Return what results of ``vit_cx`` depend on, as a key of the store.

    Args:
        evaluation: The evaluation that the methods were chosen for.
        changes: Arguments that replace the method's own.
    """
    return identity({"vit_cx": ViTCX}, "vit_cx", vit_cx_params(evaluation) | changes)


def with_vit_cx(evaluation: Evaluation) -> tuple[list[Pipeline], list[str]]:
    """Return the pipelines that ViT-CX applies to, and for each of the others a sentence with the reason."""
    reasons = [(pipeline, ViTCX.supports(pipeline.classifier)) for pipeline in evaluation.pipelines]
    refused = [f"Not applicable to {pipeline.name}: {reason}." for pipeline, reason in reasons if reason is not None]
    return [pipeline for pipeline, reason in reasons if reason is None], refused


def of_images(
    section: Section,
    evaluation: Evaluation,
    pipeline: Pipeline,
    number: int,
    key: Mapping[str, Any],
    make: Callable[[slice], Mapping[str, Tensor]],
) -> dict[str, Tensor]:
    """Return tensors about the first evaluated images, computed in parts that are cached.

    Args:
        section: Section that the results belong to.
        evaluation: Evaluation, which has the images and the store.
        pipeline: Pipeline whose models are used.
        number: Maximum number of images.
        key: What the results depend on beside section, classifier and images.
        make: Function from positions among the evaluated images to tensors, whose first axis are these images.
    """
    number = min(number, len(evaluation.evaluated))
    parts = []
    for start in range(0, number, _PART):
        chosen = slice(start, min(start + _PART, number))
        whole = evaluation.result_key(pipeline, chosen) | dict(key)
        parts.append(section.stored(evaluation, whole, partial(make, chosen)))
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
