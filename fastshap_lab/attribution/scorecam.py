"""Score-CAM."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from fastshap_lab.attribution.base import Kind, one_of, upsample
from fastshap_lab.attribution.features import find_layers, forward_with_features
from fastshap_lab.attribution.perturbation_method import Classes, PerturbationMethod, faded
from fastshap_lab.components import Count
from fastshap_lab.images import normalize_map

Weights = Literal["softmax", "probability"]


class ScoreCAM(PerturbationMethod):
    """Score-CAM: feature maps weighted by the output for the image seen through each of them, summed, after a ReLU.

    Reference: Wang et al., Score-CAM, CVPR workshops 2020, arXiv:1910.01279, section 3. Differs from the paper: the
    output for the baseline is not subtracted; neither of the usual weightings does so.

    Args:
        model: Model that maps images to logits.
        weights: ``softmax``: the softmax over features of the target's logits; maps have the features' resolution.
            ``probability``: the target's probability, without constant features; maps have the image's resolution.
        layer: Name of the module whose output is read; by default ``find_layers`` chooses it.
        baseline: Colour of the hidden part, one number per channel in units of the input; by default the model's mean
            colour.
        bf16: Run passes in bfloat16, see ``PerturbationMethod``.
        max_batch: Number of copies per pass; each feature needs one copy.

    Raises:
        UserError: No such layer is found, or ``weights`` is unknown.

    Example:
        >>> model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten())  # logits: channel means
        >>> image = torch.tensor([[[[9.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]])
        >>> maps = ScoreCAM(model, layer="0").attribute(image, target=0)
        >>> maps.argmax().item(), (maps > 0).tolist()
        (0, [[[True, False], [False, True]]])
    """

    kind: ClassVar[Kind] = "saliency"

    def __init__(
        self,
        model: nn.Module,
        weights: Weights = "softmax",
        layer: str | None = None,
        baseline: Sequence[float] | None = None,
        bf16: bool = False,
        max_batch: Count = 32,
    ) -> None:
        self.layer, self.weights = layer, one_of("weights", weights, Weights)
        super().__init__(model, baseline, "logits" if weights == "softmax" else None, bf16, max_batch)

    @classmethod
    def supports(cls, model: nn.Module, layer: str | None = None) -> str | None:
        """Return why the method cannot be applied to a model with this layer, or None if it can.

        Args:
            model: Model to explain.
            layer: Name of the module whose output is read, or None.
        """
        return None if find_layers(model, layer) else "no layer with spatial features is found: name one with layer=…"

    def _refusal(self, model: nn.Module) -> str | None:
        return self.supports(model, self.layer)

    def _explain(self, image: Tensor, colour: Tensor, classes: Classes) -> Tensor:
        _, features, to_feature_map = forward_with_features(
            self.model, find_layers(self.model, self.layer), image.unsqueeze(0)
        )
        planes, size = to_feature_map(features)[0], (image.shape[1], image.shape[2])
        if self.weights == "softmax":
            # Corners are aligned, as in the usual implementation of this weighting.
            corners = nn.UpsamplingBilinear2d(size)
            masks = (normalize_map(corners(part.unsqueeze(0))[0]) for part in planes.split(self.max_batch))
            scores = torch.cat([self._values(faded(image, part, colour), classes) for part in masks])
            return torch.einsum("dk,drc->krc", scores.softmax(dim=0), planes).clamp_min(0)
        total = image.new_zeros(1)
        for part in planes.split(self.max_batch):
            large, varies = upsample(part, size), part.amax(dim=(1, 2)) > part.amin(dim=(1, 2))
            scores = self._values(faded(image, normalize_map(large), colour), classes)
            total = torch.einsum("mk,mhw->khw", scores * varies.unsqueeze(1), large).add_(total)
        return total.clamp_min(0)
