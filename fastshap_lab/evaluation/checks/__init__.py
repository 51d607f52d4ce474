"""Checks of the evaluation, one per file."""

from fastshap_lab.evaluation.checks.attention_layers import AttentionLayers
from fastshap_lab.evaluation.checks.base import Builder, Check
from fastshap_lab.evaluation.checks.coverage import Coverage
from fastshap_lab.evaluation.checks.mask_similarity import MaskSimilarity
from fastshap_lab.evaluation.checks.masked_accuracy import MaskedAccuracy
from fastshap_lab.evaluation.checks.max_sensitivity import MaxSensitivity
from fastshap_lab.evaluation.checks.overdetermined import Overdetermined
from fastshap_lab.evaluation.checks.randomization import Randomization
from fastshap_lab.evaluation.checks.roar import ROAR
from fastshap_lab.evaluation.checks.segmentation_overlay import SegmentationOverlay
from fastshap_lab.evaluation.checks.vit_cx_settings import ViTCXSettings

__all__ = ["CHECKS", "Builder", "Check"]

CHECKS: dict[str, type[Check]] = {
    "randomization": Randomization,
    "max_sensitivity": MaxSensitivity,
    "masked_accuracy": MaskedAccuracy,
    "roar": ROAR,
    "attention_layers": AttentionLayers,
    "mask_similarity": MaskSimilarity,
    "overdetermined": Overdetermined,
    "coverage": Coverage,
    "vit_cx_settings": ViTCXSettings,
    "segmentation_overlay": SegmentationOverlay,
}
