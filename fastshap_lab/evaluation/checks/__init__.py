"""Table of the checks: sections of the report that perturb images, or randomize, retrain or inspect networks."""

from fastshap_lab.evaluation.checks.attention_layers import AttentionLayers
from fastshap_lab.evaluation.checks.coverage import Coverage
from fastshap_lab.evaluation.checks.mask_similarity import MaskSimilarity
from fastshap_lab.evaluation.checks.masked_accuracy import MaskedAccuracy
from fastshap_lab.evaluation.checks.max_sensitivity import MaxSensitivity
from fastshap_lab.evaluation.checks.overdetermined import Overdetermined
from fastshap_lab.evaluation.checks.randomization import Randomization
from fastshap_lab.evaluation.checks.roar import ROAR
from fastshap_lab.evaluation.checks.segmentation_overlay import SegmentationOverlay
from fastshap_lab.evaluation.checks.vit_cx_settings import ViTCXSettings
from fastshap_lab.evaluation.section import Section

__all__ = ["CHECKS"]

CHECKS: dict[str, type[Section]] = {
    check.kind: check
    for check in (
        Randomization,
        MaxSensitivity,
        MaskedAccuracy,
        ROAR,
        AttentionLayers,
        MaskSimilarity,
        Overdetermined,
        Coverage,
        ViTCXSettings,
        SegmentationOverlay,
    )
}
