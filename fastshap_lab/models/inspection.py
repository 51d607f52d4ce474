"""Inspection of a module that a user hands over: the normalization of its pixels, and its outputs."""

from collections.abc import Sequence

from torch import Tensor, nn

from fastshap_lab.errors import UserError
from fastshap_lab.models.classifier import CHANNELS, Classifier
from fastshap_lab.models.foreign import stated_by
from fastshap_lab.models.tasks import Task


def pixels_of(
    model: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None, normalized: bool
) -> tuple[Sequence[float], Sequence[float]]:
    """Return the mean and standard deviation to normalize pixels with: the given ones, or those that the model states.

    Args:
        model: The user's own module.
        mean: Mean colour in [0, 1], one number per channel, or None.
        std: Standard deviation of each channel, or None.
        normalized: Whether the model takes pixels in [0, 1] and normalizes them itself.

    Raises:
        UserError: They are unknown or make no sense. They are never guessed: a wrong normalization gives wrong answers
            without any error.
    """
    if isinstance(model, Classifier) or normalized:
        if mean is not None or std is not None:
            raise UserError("mean, std: the model normalizes pixels itself; leave them out")
        first = next((part for part in model.modules() if isinstance(part, nn.Conv2d)), None)
        channels = first.in_channels if first is not None and first.in_channels in CHANNELS else 3
        channels = 3 if isinstance(model, Classifier) else channels
        return (0.0,) * channels, (1.0,) * channels
    if mean is None and std is None:
        stated = stated_by(model)
        mean, std = stated.get("mean"), stated.get("std")
    if mean is None or std is None:
        raise UserError(
            "mean, std: how are pixels normalized for this model? Give both (ImageNet's: mean=(0.485, 0.456, 0.406), "
            "std=(0.229, 0.224, 0.225)), or normalized=True if it takes [0, 1] as it is"
        )
    if len(mean) not in CHANNELS or len(std) != len(mean) or not all(deviation > 0 for deviation in std):
        raise UserError(
            f"mean={mean}, std={std}: each must have three numbers (one for a grey network, four for one with alpha), "
            "and std must be above 0"
        )
    return mean, std


def outputs_of(classifier: Classifier, image: Tensor, task: Task) -> Tensor:
    """Return a model's outputs (B, K) for some images, checked to be outputs of a task.

    Args:
        classifier: Model with its normalization.
        image: Images (B, 3, H, W) in [0, 1].
        task: Task that the outputs belong to.

    Raises:
        UserError: The model does not take such images, or does not return outputs of the task.
    """
    height, width = image.shape[2:]
    try:
        outputs = classifier(image)
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError, IndexError, KeyError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"model: does not take images of {height}×{width}: {reason}") from error
    try:
        if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(image):
            raise UserError("no outputs")
        task.check_classes([str(k) for k in range(outputs.shape[1])], "model")
    except UserError:
        tensor = isinstance(outputs, Tensor)
        found = f"a tensor of shape {tuple(outputs.shape)}" if tensor else type(outputs).__name__
        raise UserError(f"model: returns {found}; must return {task.outputs}") from None
    if not outputs.isfinite().all():
        raise UserError("model: returns numbers that are not finite")
    return outputs
