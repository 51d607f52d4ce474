"""Swin transformers (Liu et al., ICCV 2021, arXiv:2103.14030) of any size."""

from timm.models.swin_transformer import SwinTransformer
from torch import nn

from fastshap_lab.components import Count, Depth, Share
from fastshap_lab.errors import UserError


def swin(
    num_classes: int,
    image_size: tuple[int, int],
    in_chans: int,
    patch_size: Count = 2,
    window_size: Count = 4,
    width: Count = 96,
    depths: tuple[Depth, ...] = (2, 2, 6, 2),
    num_heads: tuple[Count, ...] = (3, 6, 12, 24),
    drop_path: Share = 0.0,
) -> nn.Module:
    """Return timm's SwinTransformer, whose stages halve rows and columns and double the width.

    The defaults are those of Swin-T with patches and windows for small images.

    Args:
        num_classes: Number of classes K.
        image_size: Height and width in pixels.
        in_chans: Number of input channels.
        patch_size: Side of a patch in pixels.
        window_size: Side of a window in patches.
        width: Width of the first stage.
        depths: Number of blocks in each stage.
        num_heads: Number of attention heads in each stage.
        drop_path: Largest probability of dropping a residual path, in [0, 1).

    Raises:
        UserError: ``depths`` and ``num_heads`` differ in length, patches do not divide the image in every stage, or
            heads do not divide the width.
    """
    if len(depths) != len(num_heads):
        raise UserError(f"params.num_heads={list(num_heads)}: must have one number for each of {len(depths)} stages")
    if any(side % (patch_size * 2 ** (len(depths) - 1)) for side in image_size):
        raise UserError(
            f"params.patch_size={patch_size}: {len(depths)} stages of it do not divide an image of "
            f"{image_size[0]}×{image_size[1]}"
        )
    for stage, heads in enumerate(num_heads):
        if width * 2**stage % heads:
            raise UserError(f"params.num_heads={list(num_heads)}: {heads} does not divide the width {width * 2**stage}")
    return SwinTransformer(
        img_size=image_size,
        patch_size=patch_size,
        window_size=window_size,
        in_chans=in_chans,
        num_classes=num_classes,
        embed_dim=width,
        depths=depths,
        num_heads=num_heads,
        drop_path_rate=drop_path,
    )
