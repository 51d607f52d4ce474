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
    """Return the gradient of each image's class by its pixels, per unit of the model's normalized space.

    Args:
        model: Takes images to logits.
        image: As the model takes it.
        target: The class of each image.
        output: What is differentiated: the class's ``logit``, or the cross-entropy ``loss`` under it.
    """
    pixels = image.detach().clone().requires_grad_()
    logits = model(pixels.clone())  # a model may normalize in place
    (by_pixels,) = gradients(logits if output == "logit" else -logits.log_softmax(dim=1), target, [pixels])
    return by_pixels * colour_scale(model, image)


class Saliency(AttributionMethod):
    """The largest size, over channels, of the gradient by a pixel.

    Reference: Simonyan et al., Deep inside convolutional networks, 2014, arXiv:1312.6034, section 3.1.

    Args:
        model: Takes images to logits.
        output: What is differentiated: the target's ``logit``, or the cross-entropy ``loss`` under it.
        max_batch: Images per pass.
    """

    kind: ClassVar[Kind] = "saliency"

    def __init__(self, model: nn.Module, output: Output = "logit", max_batch: Count = 32) -> None:
        self.output = one_of("output", output, Output)
        super().__init__(model, max_batch)

    def _refusal(self, model: nn.Module) -> str | None:
        if self.output == "loss" and not task_of(model).exclusive:
            return (
                f"output=loss: there is no cross-entropy under one of several classes of a {task_of(model).name} model"
            )
        return super()._refusal(model)

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        return pixel_gradients(self.model, image, target, self.output).abs().amax(dim=1)
