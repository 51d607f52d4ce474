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
    """Class activation map: the contribution of each position to a logit that is linear in the mean of the features.

    A map adds up to the target's logit without the bias.

    Reference: Zhou et al., Learning deep features for discriminative localization, CVPR 2016, arXiv:1512.04150,
    equation 2.

    Args:
        model: Model whose last linear layer computes the logits from the output of an average pooling module. Each call
            checks that nothing comes between the two.
        max_batch: Number of images per pass.

    Raises:
        UserError: The model has no such layers; or, from ``attribute``, its logits are not linear in the mean of the
            features.

    Example:
        >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
        >>> _ = nn.init.eye_(model[2].weight)  # logit k is the mean of channel k, plus a bias
        >>> image = torch.zeros(1, 2, 2, 2).index_fill(1, torch.tensor(1), 4)
        >>> CAM(model).attribute(image, target=1).tolist()
        [[[1.0, 1.0], [1.0, 1.0]]]
    """

    kind: ClassVar[Kind] = "attribution"
    unit = "logits"

    @classmethod
    def supports(cls, model: nn.Module) -> str | None:
        """Return why the method cannot be applied to a model, or None if its layers allow it."""
        return None if _head(model) else "the model has no average pooling of rows and columns before a linear layer"

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        maps = self._attribute_all(image)
        return maps[torch.arange(len(image), device=image.device), target]

    @torch.no_grad()
    def _attribute_all(self, image: Tensor) -> Tensor:
        found = _head(self.model)
        assert found is not None  # the constructor refuses models without these layers
        pooling, linear = found
        logits, features, to_feature_map = forward_with_features(self.model, [pooling], image, entering=True)
        planes = to_feature_map(features)
        if planes.shape[1] != linear.in_features:
            raise UserError(
                f"CAM: {planes.shape[1]} features are pooled: must be {linear.in_features}, as the linear layer takes"
            )
        weight, bias = affine(linear)
        maps = torch.einsum("kd,bdrc->bkrc", weight, planes) / planes[0, 0].numel()
        expected = maps.sum(dim=(2, 3)) + bias
        if logits.shape != expected.shape or not torch.allclose(
            logits, expected, rtol=0, atol=1e-2 * max(1, float(logits.abs().max()))
        ):
            raise UserError("CAM: the logits are not linear in the mean of the features; use grad_cam instead")
        return maps


def _head(model: nn.Module) -> tuple[nn.Module, nn.Linear] | None:
    """Return the last average pooling module and the last linear layer, or None if one is missing."""
    modules = list(model.modules())
    # timm's pooling module contains one of PyTorch's. The check of the logits reveals other kinds of pooling.
    timms: list[nn.Module] = [m for m in modules if isinstance(m, SelectAdaptivePool2d)]
    pools = timms or [m for m in modules if isinstance(m, nn.AdaptiveAvgPool2d)]
    linears = [m for m in modules if isinstance(m, nn.Linear)]
    return (pools[-1], linears[-1]) if pools and linears else None
