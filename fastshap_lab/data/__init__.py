"""Table of the data sets, by their names in a configuration."""

import inspect
from collections.abc import Mapping
from typing import Any

from fastshap_lab import _timm  # noqa: F401 - before timm, torchvision and Lightning
from fastshap_lab.components import build, lookup
from fastshap_lab.data.base import ImageDataModule
from fastshap_lab.data.cifar10 import Cifar10
from fastshap_lab.data.digits import Digits
from fastshap_lab.data.folder import Folder
from fastshap_lab.data.hub import Hub
from fastshap_lab.data.imagenet import ImageNet
from fastshap_lab.data.synthetic import Synthetic
from fastshap_lab.data.voc import Voc
from fastshap_lab.errors import UserError
from fastshap_lab.models.tasks import build_task, described

DATASETS: dict[str, type[ImageDataModule]] = {
    "cifar10": Cifar10,
    "digits": Digits,
    "folder": Folder,
    "hub": Hub,
    "imagenet": ImageNet,
    "synthetic": Synthetic,
    "voc": Voc,
}


def build_data(name: str, params: Mapping[str, Any], task: str | Mapping[str, Any] | None = None) -> ImageDataModule:
    """Return a data set.

    Args:
        name: Name in ``DATASETS``.
        params: Arguments of the data set's class.
        task: Name in ``models.tasks.TASKS``, or ``{name: …, params: {…}}``. None: the data set chooses the task that
            its labels fit.

    Raises:
        UserError: An argument is wrong, the data are missing, or the labels do not fit the task.
    """
    given, chosen = {}, None if task is None else build_task(task, "data.task")
    if "task" in inspect.signature(lookup(DATASETS, "data.name", name)).parameters:
        given = {"task": chosen}
    elif chosen is not None and described(chosen):
        raise UserError(f"data.task={chosen.name}: {name} has one label of several classes for each image")
    return build(DATASETS, "data", name, params, **given)
