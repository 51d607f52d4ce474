"""Class activation maps."""

from typing import ClassVar

import torch
from timm.layers.adaptive_avgmax_pool import SelectAdaptivePool2d
from torch import Tensor, nn

from fastshap_lab.attribution.base import AttributionMethod, Kind
from fastshap_lab.attribution.features import forward_with_features
from fastshap_lab.errors import UserError
from fastshap_lab.models.heads import affine


class CAM(AttributionMethod):
    """What each place adds to a logit that is linear in the mean of features: a map adds up to it without the bias.

    Reference: Zhou et al., Learning deep features for discriminative localization, CVPR 2016, arXiv:1512.04150,
    equation 2.

    Args:
        model: Takes the mean over places, by a pooling module, to logits by its last linear layer. That nothing comes
            between is checked with each image.
        max_batch: Images per pass.
    """

    kind: ClassVar[Kind] = "attribution"
    unit = "logits"

    @classmethod
    def supports(cls, model: nn.Module) -> str | None:
        """Return why the method does not apply to a model, or None if it seems to."""
        return None if _head(model) else "the model has no average pooling of rows and columns before a linear layer"

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        maps = self._attribute_all(image)
        return maps[torch.arange(len(image), device=image.device), target]

    @torch.no_grad()
    def _attribute_all(self, image: Tensor) -> Tensor:
        found = _head(self.model)
        assert found is not None  # or the constructor had refused
        pooling, linear = found
        logits, features, to_feature_map = forward_with_features(self.model, [pooling], image, entering=True)
        planes = to_feature_map(features)
        if planes.shape[1] != linear.in_features:
            raise UserError(f"CAM: {planes.shape[1]} features are pooled, {linear.in_features} enter the linear layer")
        weight, bias = affine(linear)
        maps = torch.einsum("kd,bdrc->bkrc", weight, planes) / planes[0, 0].numel()
        expected = maps.sum(dim=(2, 3)) + bias
        if logits.shape != expected.shape or not torch.allclose(
            logits, expected, rtol=0, atol=1e-2 * max(1, float(logits.abs().max()))
        ):
            raise UserError("CAM: the logits are not linear in the mean of the features; take grad_cam instead")
        return maps


def _head(model: nn.Module) -> tuple[nn.Module, nn.Linear] | None:
    """Return the last average pooling and the last linear layer."""
    modules = list(model.modules())
    # timm's own kind holds one of PyTorch's; what kind of pooling it is, the check of the logits tells.
    timms: list[nn.Module] = [m for m in modules if isinstance(m, SelectAdaptivePool2d)]
    pools = timms or [m for m in modules if isinstance(m, nn.AdaptiveAvgPool2d)]
    linears = [m for m in modules if isinstance(m, nn.Linear)]
    return (pools[-1], linears[-1]) if pools and linears else None
