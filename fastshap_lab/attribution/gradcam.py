"""Grad-CAM, on features and on attention."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fastshap_lab.attribution.attention_method import AttentionMethod
from fastshap_lab.attribution.base import AttributionMethod, Kind, gradients, task_of
from fastshap_lab.attribution.features import find_layers, forward_with_features
from fastshap_lab.components import Count


def grad_cam(
    features: Float[Tensor, "B D rows columns"], by_features: Float[Tensor, "B D rows columns"]
) -> Float[Tensor, "B rows columns"]:
    """Return the sum of features, each times its mean gradient; signed."""
    return torch.einsum("bd,bdrc->brc", by_features.mean(dim=(2, 3)), features)


class SignedGradCAM(AttributionMethod):
    """Grad-CAM before its negative part is cut off.

    Args:
        model: Takes images to logits.
        layer: Name of the module whose output is read; found by default, see ``features.find_layers``.
        max_batch: Images per pass.
    """

    kind: ClassVar[Kind] = "attribution"

    def __init__(self, model: nn.Module, layer: str | None = None, max_batch: Count = 32) -> None:
        self.layer = layer
        super().__init__(model, max_batch)

    @classmethod
    def supports(cls, model: nn.Module, layer: str | None = None) -> str | None:
        """Return why the method does not apply to a model with this layer, or None if it does."""
        return None if find_layers(model, layer) else "no layer with spatial features is found: name one with layer=…"

    def _refusal(self, model: nn.Module) -> str | None:
        return self.supports(model, self.layer)

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        return self._explain(image, target)

    def _attribute_top(self, image: Tensor) -> Tensor:
        return self._explain(image, None)

    def _explain(self, image: Tensor, target: Tensor | None) -> Tensor:
        """Return the maps of each image's class, or of the top one."""
        logits, features, to_feature_map = forward_with_features(self.model, find_layers(self.model, self.layer), image)
        target = task_of(self.model).foremost(logits) if target is None else target
        (by_features,) = gradients(logits, target, [features])
        return grad_cam(to_feature_map(features), to_feature_map(by_features))


class GradCAM(SignedGradCAM):
    """Sum of the last features that have places, each times the mean gradient of the target's logit by it, if positive.

    A map is all zero where everything speaks against the class.

    Reference: Selvaraju et al., Grad-CAM, ICCV 2017, arXiv:1610.02391, equations 1 and 2.

    Args:
        model: Takes images to logits.
        layer: Name of the module whose output is read; found by default, see ``features.find_layers``.
        max_batch: Images per pass.
    """

    kind: ClassVar[Kind] = "saliency"

    def _explain(self, image: Tensor, target: Tensor | None) -> Tensor:
        return super()._explain(image, target).clamp_min(0)


class AttentionGradCAM(AttentionMethod):
    """The last block's attention to patches, each head times its mean gradient; heads averaged, the negative cut off.

    Reference: the baseline of Chefer et al., Transformer interpretability beyond attention visualization, CVPR 2021,
    arXiv:2012.09838, section 4.
    """

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        record, by_attention = self._differentiate(image, target)
        attention, gradient = self._heads(record.attention[-1]), self._heads(by_attention[-1])
        weights = gradient[:, :, self.network.num_prefix_tokens :].mean(dim=2, keepdim=True)
        return self._patches((weights * attention).mean(dim=1).clamp_min(0), record.grid)

    def _heads(self, relation: Float[Tensor, "B A T T"]) -> Float[Tensor, "B A T"]:
        return self._row(relation.flatten(0, 1)).unflatten(0, relation.shape[:2])
