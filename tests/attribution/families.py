"""A tiny network of every family, for images of 8 × 12 pixels, with weights that leave no path silent."""

from collections.abc import Callable

import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fastshap_lab.models import Classifier
from tests import small

GRID, NUM_CLASSES = (2, 3), 4
TOKENS = {"img_size": small.IMAGE_SIZE, "patch_size": 4, "num_classes": NUM_CLASSES}
TOKENS |= {"embed_dim": 12, "depth": 3, "num_heads": 3, "mlp_ratio": 1.5}
ROTARY = {"use_rot_pos_emb": True, "swiglu_mlp": True, "scale_mlp": True, "qkv_fused": False, "init_values": 0.5}
ODD = {"reg_tokens": 2, "init_values": 0.5, "qk_norm": True, "scale_attn_norm": True}
WINDOWS = {"img_size": small.IMAGE_SIZE, "patch_size": 2, "num_classes": NUM_CLASSES, "window_size": 2}


class OwnNormalization(nn.Module):
    """A module as a user may have one: it normalizes, and holds a network under a name of its own."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, pixels: Tensor) -> Tensor:
        return self.inside((pixels - 0.5) / 0.25)


def with_pixels(network: nn.Module) -> Classifier:
    return Classifier(network, small.PIXELS["mean"], small.PIXELS["std"], small.IMAGE_SIZE, NUM_CLASSES)


FAMILIES: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: with_pixels(VisionTransformer(**TOKENS)),
    "distilled": lambda: VisionTransformerDistilled(**TOKENS),
    "registers": lambda: OwnNormalization(VisionTransformer(**TOKENS, **ODD)),
    "mean": lambda: with_pixels(VisionTransformer(**TOKENS, global_pool="avg", class_token=False)),
    "eva": lambda: Eva(**TOKENS, **ROTARY, global_pool="token"),
    "eva_mean": lambda: with_pixels(Eva(**TOKENS, global_pool="avg", num_reg_tokens=1)),
    "swin": lambda: with_pixels(SwinTransformer(**WINDOWS, embed_dim=8, depths=(2, 1), num_heads=(2, 2))),
    "resnet": lambda: small.classifier("resnet", num_classes=NUM_CLASSES),
}


def family(name: str, seed: int = 0) -> nn.Module:
    return small.scrambled(FAMILIES[name], seed)


def images(number: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return small.images(number, seed=seed).to(dtype)
