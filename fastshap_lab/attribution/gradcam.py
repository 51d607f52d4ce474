"""Grad-CAM, for features and for attention."""

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
    """Return the sum over channels of feature maps, each weighted by its mean gradient; signed.

    Args:
        features: Feature maps with D channels.
        by_features: Gradients of the target's logit by them.

    Example:
        >>> by_features = torch.tensor([[[[3.0, 3.0]], [[-1.0, -1.0]]]])
        >>> grad_cam(torch.ones(1, 2, 1, 2), by_features).tolist()
        [[[2.0, 2.0]]]
    """
    return torch.einsum("bd,bdrc->brc", by_features.mean(dim=(2, 3)), features)


class SignedGradCAM(AttributionMethod):
    """Grad-CAM without the ReLU: negative values remain.

    Args:
        model: Model that maps images to logits.
        layer: Name of the module whose output is read; by default ``find_layers`` chooses it.
        max_batch: Number of images per pass.

    Raises:
        UserError: No such layer is found.

    Example:
        >>> model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten())  # logits: channel means
        >>> image = torch.tensor([[[[-4.0, 4.0]], [[1.0, 1.0]]]])
        >>> SignedGradCAM(model, layer="0").attribute(image, target=0).tolist()  # the mean gradient is 1/2
        [[[-2.0, 2.0]]]
    """

    kind: ClassVar[Kind] = "attribution"

    def __init__(self, model: nn.Module, layer: str | None = None, max_batch: Count = 32) -> None:
        self.layer = layer
        super().__init__(model, max_batch)

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

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        return self._explain(image, target)

    def _attribute_top(self, image: Tensor) -> Tensor:
        return self._explain(image, None)

    def _explain(self, image: Tensor, target: Tensor | None) -> Tensor:
        """Return the map of each image for its target, or for its top class if the target is None."""
        logits, features, to_feature_map = forward_with_features(self.model, find_layers(self.model, self.layer), image)
        target = task_of(self.model).foremost(logits) if target is None else target
        (by_features,) = gradients(logits, target, [features])
        return grad_cam(to_feature_map(features), to_feature_map(by_features))


class GradCAM(SignedGradCAM):
    """Grad-CAM: the last feature maps, each weighted by its mean gradient and summed over channels, after a ReLU.

    A map is zero everywhere if every position counts against the target.

    Reference: Selvaraju et al., Grad-CAM, ICCV 2017, arXiv:1610.02391, equations 1 and 2.

    Args:
        model: Model that maps images to logits.
        layer: Name of the module whose output is read; by default ``find_layers`` chooses it.
        max_batch: Number of images per pass.

    Raises:
        UserError: No such layer is found.

    Example:
        >>> model = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten())  # logits: channel means
        >>> image = torch.tensor([[[[-4.0, 4.0]], [[1.0, 1.0]]]])
        >>> GradCAM(model, layer="0").attribute(image, target=0).tolist()  # the mean gradient is 1/2
        [[[0.0, 2.0]]]
    """

    kind: ClassVar[Kind] = "saliency"

    def _explain(self, image: Tensor, target: Tensor | None) -> Tensor:
        return super()._explain(image, target).clamp_min(0)


class AttentionGradCAM(AttentionMethod):
    """Grad-CAM on the last block's attention: heads weighted by their mean gradient and averaged, after a ReLU.

    Reference: the baseline of Chefer et al., Transformer interpretability beyond attention visualization, CVPR 2021,
    arXiv:2012.09838, section 4.

    Arguments are those of ``AttentionMethod``.

    Example:
        >>> from timm.models import VisionTransformer
        >>> model = VisionTransformer(img_size=8, patch_size=4, num_classes=3, embed_dim=12, depth=2, num_heads=3)
        >>> maps = AttentionGradCAM(model).attribute_all(torch.rand(1, 3, 8, 8))
        >>> maps.shape, bool((maps >= 0).all())
        (torch.Size([1, 3, 2, 2]), True)
    """

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        record, by_attention = self._differentiate(image, target)
        attention, gradient = self._heads(record.attention[-1]), self._heads(by_attention[-1])
        weights = gradient[:, :, self.network.num_prefix_tokens :].mean(dim=2, keepdim=True)
        return self._patches((weights * attention).mean(dim=1).clamp_min(0), record.grid)

    def _heads(self, relation: Float[Tensor, "B A T T"]) -> Float[Tensor, "B A T"]:
        return self._row(relation.flatten(0, 1)).unflatten(0, relation.shape[:2])
