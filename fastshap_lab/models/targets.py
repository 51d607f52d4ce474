"""Which class of each image is meant, however that is said."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from fastshap_lab.components import did_you_mean
from fastshap_lab.errors import UserError

Targets = int | np.integer | Sequence[Any] | np.ndarray | Tensor
"""Numbers of classes, of one or of several images."""

Classes = str | Targets
"""Names or numbers of classes, of one or several."""


def as_classes(target: Any, num_classes: int | None = None) -> Int[Tensor, "*shape"]:
    """Return numbers of classes as an int64 tensor.

    Args:
        target: Whole numbers; neither bool nor float.
        num_classes: K, where it is known already.

    Raises:
        UserError: They are no whole numbers, or there are no such classes.
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
    """Return the class of each image: the one given for all of them, or each its own.

    Args:
        target: One class, or one for each image.
        num_images: B.
        num_classes: K, where it is known already.

    Raises:
        UserError: As for ``as_classes``, or their number is another.
    """
    classes = as_classes(target, num_classes)
    if classes.shape not in ((), (1,), (num_images,)):
        shape = tuple(classes.shape)
        raise UserError(f"target of shape {shape}: must be one class for all images, or one for each of {num_images}")
    return classes.expand(num_images)


def chosen_classes(chosen: Classes, class_names: Sequence[str]) -> list[int]:
    """Return the numbers of some classes.

    Args:
        chosen: Names or numbers, one or several; a word that is no name but a number counts as this.
        class_names: Of all K classes.

    Raises:
        UserError: There is no such class, or several have the name; or none is given.
    """
    several: list[Any] = [chosen]
    if not isinstance(chosen, str | int) and np.ndim(chosen):
        several = list(chosen)  # type: ignore[arg-type]  # NumPy's numbers have no dimension
    numbers = []
    for one in several:
        places = [number for number, name in enumerate(class_names) if name == one]
        if len(places) > 1:
            raise UserError(f"class {one}: classes {', '.join(map(str, places))} are called so; give the number")
        if not places and isinstance(one, str) and not (one.isdecimal() and len(one) < 10):
            raise UserError(f"class {one}: unknown, {did_you_mean(one, class_names)}")
        numbers.append(
            places[0] if places else int(as_classes(int(one) if isinstance(one, str) else one, len(class_names)))
        )
    if not numbers:
        raise UserError("no class given: name one, or leave classes out")
    return numbers
