"""Amortized Shapley explainers of image classifiers: trained, checked against the truth, served."""

from fastshap_lab import _torchvision as _torchvision  # before anything that imports torchvision

__version__ = "0.1.0"
