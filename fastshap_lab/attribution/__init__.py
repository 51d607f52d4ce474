"""Attribution methods of the field, on any model; one method or close family per file."""

from fastshap_lab import _timm  # noqa: F401 - before timm, torchvision and Lightning
from fastshap_lab.attribution.ag_cam import AGCAM
from fastshap_lab.attribution.base import AttributionMethod, upsample
from fastshap_lab.attribution.cam import CAM
from fastshap_lab.attribution.chefer import CGW1, CGW2
from fastshap_lab.attribution.gradcam import AttentionGradCAM, GradCAM, SignedGradCAM
from fastshap_lab.attribution.gradients import Saliency
from fastshap_lab.attribution.head_relevance import HeadRelevance
from fastshap_lab.attribution.integrated_gradients import IntegratedGradients
from fastshap_lab.attribution.occlusion import LeaveOneOut, Occlusion
from fastshap_lab.attribution.partial_lrp import PartialLRP
from fastshap_lab.attribution.random import Random
from fastshap_lab.attribution.raw_attention import RawAttention
from fastshap_lab.attribution.rise import RISE
from fastshap_lab.attribution.rollout import GradientRollout, Rollout
from fastshap_lab.attribution.saw import SAW
from fastshap_lab.attribution.score_matrix import ScoreMatrix
from fastshap_lab.attribution.scorecam import ScoreCAM
from fastshap_lab.attribution.shapley import KernelSHAPValues, KrigingValues, LeverageSHAPValues, PermutationValues
from fastshap_lab.attribution.smoothgrad import SmoothGrad
from fastshap_lab.attribution.tam import TAM
from fastshap_lab.attribution.trained import TrainedExplainer
from fastshap_lab.attribution.vit_cx import ViTCX

__all__ = ["METHODS", "AttributionMethod", "upsample"]

METHODS: dict[str, type[AttributionMethod]] = {
    "explainer": TrainedExplainer,
    "raw_attention": RawAttention,
    "score_matrix": ScoreMatrix,
    "rollout": Rollout,
    "gradient_rollout": GradientRollout,
    "partial_lrp": PartialLRP,
    "cgw1": CGW1,
    "cgw2": CGW2,
    "head_relevance": HeadRelevance,
    "tam": TAM,
    "ag_cam": AGCAM,
    "saw": SAW,
    "saliency": Saliency,
    "integrated_gradients": IntegratedGradients,
    "smoothgrad": SmoothGrad,
    "cam": CAM,
    "grad_cam": GradCAM,
    "signed_grad_cam": SignedGradCAM,
    "attention_grad_cam": AttentionGradCAM,
    "score_cam": ScoreCAM,
    "occlusion": Occlusion,
    "leave_one_out": LeaveOneOut,
    "rise": RISE,
    "vit_cx": ViTCX,
    "kernel_shap": KernelSHAPValues,
    "kriging": KrigingValues,
    "leverage_shap": LeverageSHAPValues,
    "permutation": PermutationValues,
    "random": Random,
}
