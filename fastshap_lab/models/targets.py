"""Target classes in any of the forms in which a user may name them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from fastshap_lab.components import did_you_mean
from fastshap_lab.errors import UserError

Targets = int | np.integer | Sequence[Any] | np.ndarray | Tensor
"""Numbers of classes: one for all images, or one per image."""

Classes = str | Targets
"""Names or numbers of classes, one or several."""


def as_classes(target: Any, num_classes: int | None = None) -> Int[Tensor, "*shape"]:
    """Return the numbers of classes as an int64 tensor.

    Args:
        target: Number, list, array or tensor of integers from 0 to K - 1; neither bool nor float.
        num_classes: Number of classes K, or None where it is not known yet.

    Raises:
        UserError: The numbers are no integers, or there are no such classes.
    """
    try:
        classes = torch.as_tensor(target)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"target of type {type(target).__name__}: must be the numbers of classes, as in 3") from None
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        kind = str(classes.dtype).removeprefix("torch.")
        raise UserError(f"target of type {kind}: must be whole numbers, the numbers of classes, as in 3")
    classes = classes.long()
    wrong = classes < 0
    if num_classes is not None:
        wrong |= classes >= num_classes
    if bool(wrong.any()):
        known = "from 0" if num_classes is None else f"0 to {num_classes - 1}"
        raise UserError(f"target={int(classes[wrong][0])}: classes are numbered {known}")
    return classes


def class_of_each(target: Any, num_images: int, num_classes: int | None = None) -> Int[Tensor, " B"]:
    """Return the class of each image.

    Args:
        target: Number of one class for all images, or numbers of one class per image.
        num_images: Number of images B.
        num_classes: Number of classes K, or None where it is not known yet.

    Raises:
        UserError: The numbers are no integers, there are no such classes, or there is neither one nor one per image.
    """
    classes = as_classes(target, num_classes)
    if classes.shape not in ((), (1,), (num_images,)):
        shape = tuple(classes.shape)
        raise UserError(f"target of shape {shape}: must be one class for all images, or one for each of {num_images}")
    return classes.expand(num_images)


def chosen_classes(chosen: Classes, class_names: Sequence[str]) -> list[int]:
    """Return the numbers of the classes that a user has chosen.

    Args:
        chosen: Names or numbers of one or several classes. A text that is no class's name may be a number.
        class_names: Names of all K classes.

    Raises:
        UserError: There is no such class, several classes have the name, or no class is given.
    """
    several: list[Any] = [chosen]
    if not isinstance(chosen, str | int) and np.ndim(chosen):
        several = list(chosen)  # type: ignore[arg-type]  # a NumPy scalar has no dimension
    numbers = []
    for one in several:
        places = [number for number, name in enumerate(class_names) if name == one]
        if len(places) > 1:
            raise UserError(f"class {one}: classes {', '.join(map(str, places))} have this name; give the number")
        if not places and isinstance(one, str) and not (one.isdecimal() and len(one) < 10):
            raise UserError(f"class {one}: unknown, {did_you_mean(one, class_names)}")
        numbers.append(
            places[0] if places else int(as_classes(int(one) if isinstance(one, str) else one, len(class_names)))
        )
    if not numbers:
        raise UserError("no class given: name one, or leave classes out")
    return numbers
