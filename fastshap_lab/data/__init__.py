"""Data sets by the name they have in a configuration."""

from fastshap_lab import _timm  # noqa: F401 - before timm, torchvision and Lightning
from fastshap_lab.data.base import ImageDataModule
from fastshap_lab.data.cifar10 import Cifar10
from fastshap_lab.data.digits import Digits
from fastshap_lab.data.folder import Folder
from fastshap_lab.data.hub import Hub
from fastshap_lab.data.imagenet import ImageNet
from fastshap_lab.data.synthetic import Synthetic
from fastshap_lab.data.voc import Voc

DATASETS: dict[str, type[ImageDataModule]] = {
    "cifar10": Cifar10,
    "digits": Digits,
    "folder": Folder,
    "hub": Hub,
    "imagenet": ImageNet,
    "synthetic": Synthetic,
    "voc": Voc,
}
