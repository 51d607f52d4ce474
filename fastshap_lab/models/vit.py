"""Vision transformers (Dosovitskiy et al., ICLR 2021, arXiv:2010.11929)."""

from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from fastshap_lab.components import Count, Depth, Share
from fastshap_lab.errors import UserError


def vit(
    num_classes: int,
    image_size: tuple[int, int],
    in_chans: int,
    patch_size: Count = 4,
    width: Count = 384,
    depth: Depth = 7,
    num_heads: Count = 12,
    mlp_width: Count = 384,
    drop_path: Share = 0.0,
    distilled: bool = False,
) -> nn.Module:
    """Return timm's VisionTransformer with a class token or, if ``distilled``, a DeiT with a distillation token, too.

    The defaults are the light ViT of Roldan, Xu and Zhang, "Visualizing and Interpreting Transformer-based Vision
    Models", for 32 × 32 pixels: 64 patches and a class token, 6.3 million parameters.

    Args:
        num_classes: Number of classes K.
        image_size: Height and width in pixels.
        in_chans: Number of input channels.
        patch_size: Side of a patch in pixels.
        width: Width of the tokens.
        depth: Number of blocks.
        num_heads: Number of attention heads.
        mlp_width: Width of the hidden layer in each block.
        drop_path: Largest probability of dropping a residual path, in [0, 1).
        distilled: Whether the network has a distillation token.

    Raises:
        UserError: The patch size does not divide the image, or the number of heads does not divide the width.
    """
    if any(side % patch_size for side in image_size):
        raise UserError(f"params.patch_size={patch_size}: does not divide an image of {image_size[0]}×{image_size[1]}")
    if width % num_heads:
        raise UserError(f"params.num_heads={num_heads}: does not divide the width {width}")
    return (VisionTransformerDistilled if distilled else VisionTransformer)(
        img_size=image_size,
        patch_size=patch_size,
        in_chans=in_chans,
        num_classes=num_classes,
        embed_dim=width,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=mlp_width / width,
        drop_path_rate=drop_path,
    )
