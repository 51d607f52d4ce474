"""Explainer networks, which map images to raw values; one per file."""

from fastshap_lab.models.explainers.base import Explainer
from fastshap_lab.models.explainers.unet import UNetExplainer
from fastshap_lab.models.explainers.vit import ViTExplainer

__all__ = ["EXPLAINERS", "Explainer", "UNetExplainer", "ViTExplainer"]

EXPLAINERS: dict[str, type[Explainer]] = {"unet": UNetExplainer, "vit": ViTExplainer}
