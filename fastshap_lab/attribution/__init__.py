"""Published attribution methods, for any model. A file holds one method or a close family of methods."""

from fastshap_lab import _timm  # noqa: F401 - before timm, torchvision and Lightning
from fastshap_lab.attribution.ag_cam import AGCAM
from fastshap_lab.attribution.attention_method import AttentionMethod
from fastshap_lab.attribution.base import AttributionMethod, mean_colour, restoring, upsample
from fastshap_lab.attribution.cam import CAM
from fastshap_lab.attribution.chefer import CGW1, CGW2, positive_mean, weighted_product
from fastshap_lab.attribution.features import find_layers, forward_with_features
from fastshap_lab.attribution.gradcam import AttentionGradCAM, GradCAM, SignedGradCAM, grad_cam
from fastshap_lab.attribution.gradients import Saliency, pixel_gradients
from fastshap_lab.attribution.head_relevance import HeadRelevance, head_weights
from fastshap_lab.attribution.integrated_gradients import IntegratedGradients, quadrature
from fastshap_lab.attribution.occlusion import LeaveOneOut, Occlusion
from fastshap_lab.attribution.partial_lrp import PartialLRP
from fastshap_lab.attribution.perturbation_method import (
    PerturbationMethod,
    PlayersMethod,
    default_grid,
    faded,
    finest_grid,
)
from fastshap_lab.attribution.random import Random
from fastshap_lab.attribution.raw_attention import RawAttention
from fastshap_lab.attribution.recording import (
    AttentionRecord,
    find_token_network,
    recorded_activations,
    recorded_attention,
    recorded_inputs,
)
from fastshap_lab.attribution.relevance import (
    RelevanceMethod,
    attention_relevance,
    linear_rule,
    product_rule,
    residual_rule,
)
from fastshap_lab.attribution.rise import RISE, RandomMasks, RandomPlayers
from fastshap_lab.attribution.rollout import GradientRollout, Rollout, discard_smallest, rollout
from fastshap_lab.attribution.saw import SAW, gradient_mass
from fastshap_lab.attribution.score_matrix import ScoreMatrix, score_matrix
from fastshap_lab.attribution.scorecam import ScoreCAM
from fastshap_lab.attribution.shapley import (
    KernelSHAPValues,
    KrigingValues,
    LeverageSHAPValues,
    PermutationValues,
    ShapleyMethod,
)
from fastshap_lab.attribution.smoothgrad import SmoothGrad, moment
from fastshap_lab.attribution.tam import TAM, transition
from fastshap_lab.attribution.trained import TrainedExplainer
from fastshap_lab.attribution.vit_cx import ViTCX, cluster, plane_masks

__all__ = [
    "AGCAM",
    "CAM",
    "CGW1",
    "CGW2",
    "METHODS",
    "RISE",
    "SAW",
    "TAM",
    "AttentionGradCAM",
    "AttentionMethod",
    "AttentionRecord",
    "AttributionMethod",
    "GradCAM",
    "GradientRollout",
    "HeadRelevance",
    "IntegratedGradients",
    "KernelSHAPValues",
    "KrigingValues",
    "LeaveOneOut",
    "LeverageSHAPValues",
    "Occlusion",
    "PartialLRP",
    "PermutationValues",
    "PerturbationMethod",
    "PlayersMethod",
    "Random",
    "RandomMasks",
    "RandomPlayers",
    "RawAttention",
    "RelevanceMethod",
    "Rollout",
    "Saliency",
    "ScoreCAM",
    "ScoreMatrix",
    "ShapleyMethod",
    "SignedGradCAM",
    "SmoothGrad",
    "TrainedExplainer",
    "ViTCX",
    "attention_relevance",
    "cluster",
    "default_grid",
    "discard_smallest",
    "faded",
    "find_layers",
    "find_token_network",
    "finest_grid",
    "forward_with_features",
    "grad_cam",
    "gradient_mass",
    "head_weights",
    "linear_rule",
    "mean_colour",
    "moment",
    "pixel_gradients",
    "plane_masks",
    "positive_mean",
    "product_rule",
    "quadrature",
    "recorded_activations",
    "recorded_attention",
    "recorded_inputs",
    "residual_rule",
    "restoring",
    "rollout",
    "score_matrix",
    "transition",
    "upsample",
    "weighted_product",
]

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
