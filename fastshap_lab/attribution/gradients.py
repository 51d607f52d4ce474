"""Saliency: the gradient by the pixels."""

from typing import ClassVar, Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from fastshap_lab.attribution.base import AttributionMethod, Kind, colour_scale, gradients, one_of, task_of
from fastshap_lab.components import Count

Output = Literal["logit", "loss"]


def pixel_gradients(
    model: nn.Module, image: Float[Tensor, "B C H W"], target: Int[Tensor, " B"], output: Output = "logit"
) -> Float[Tensor, "B C H W"]:
    """Return the gradient of each image's target output by its pixels, per unit of the model's normalized space.

    Args:
        model: Model that maps images to logits.
        image: Images as the model takes them.
        target: Target class of each image, int64.
        output: Output that is differentiated: the target's ``logit``, or the cross-entropy ``loss`` with the target as
            label.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())  # logit k is the mean of channel k
        >>> pixel_gradients(model, torch.rand(1, 2, 1, 2), torch.tensor([0])).tolist()
        [[[[0.5, 0.5]], [[0.0, 0.0]]]]
    """
    pixels = image.detach().clone().requires_grad_()
    logits = model(pixels.clone())  # The model may normalize its input in place.
    (by_pixels,) = gradients(logits if output == "logit" else -logits.log_softmax(dim=1), target, [pixels])
    return by_pixels * colour_scale(model, image)


class Saliency(AttributionMethod):
    """The absolute gradient of the target's output by each pixel, maximized over channels.

    Reference: Simonyan et al., Deep inside convolutional networks, 2014, arXiv:1312.6034, section 3.1.

    Args:
        model: Model that maps images to logits.
        output: Output that is differentiated: the target's ``logit``, or the cross-entropy ``loss`` with the target as
            label.
        max_batch: Number of images per pass.

    Raises:
        UserError: ``output`` is unknown, or is ``loss`` for a model whose classes do not exclude each other.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())  # logit k is the mean of channel k
        >>> Saliency(model).attribute(torch.rand(1, 2, 2, 2), target=1).tolist()
        [[[0.25, 0.25], [0.25, 0.25]]]
    """

    kind: ClassVar[Kind] = "saliency"

    def __init__(self, model: nn.Module, output: Output = "logit", max_batch: Count = 32) -> None:
        self.output = one_of("output", output, Output)
        super().__init__(model, max_batch)

    def _refusal(self, model: nn.Module) -> str | None:
        if self.output == "loss" and not task_of(model).exclusive:
            task = task_of(model).name
            return f"output=loss: must be logit for the task {task}, whose classes do not exclude each other"
        return super()._refusal(model)

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        return pixel_gradients(self.model, image, target, self.output).abs().amax(dim=1)
