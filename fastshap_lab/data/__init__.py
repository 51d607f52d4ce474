"""Data sets by the name they have in a configuration."""

from fastshap_lab.data.base import ImageDataModule
from fastshap_lab.data.digits import Digits
from fastshap_lab.data.hub import Hub
from fastshap_lab.data.synthetic import Synthetic

DATASETS: dict[str, type[ImageDataModule]] = {"digits": Digits, "hub": Hub, "synthetic": Synthetic}
