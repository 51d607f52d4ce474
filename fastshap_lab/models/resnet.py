"""Residual networks of basic blocks (He et al., CVPR 2016, arXiv:1512.03385), for small images and large ones."""

from typing import Any

from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from fastshap_lab.components import Count, Depth
from fastshap_lab.errors import UserError


def resnet(
    num_classes: int,
    image_size: tuple[int, int],
    in_chans: int,
    channels: tuple[Count, Count, Count, Count] = (64, 128, 256, 512),
    depths: tuple[Depth, Depth, Depth, Depth] = (2, 2, 2, 2),
    strides: tuple[Count, Count, Count, Count, Count] = (1, 1, 2, 2, 2),
) -> nn.Module:
    """Return timm's ResNet with a 3 × 3 stem and no pooling after it, as is usual for images of 32 pixels and less.

    The defaults give ResNet18.

    Args:
        num_classes: Number of classes K.
        image_size: Ignored: height and width in pixels.
        in_chans: Number of input channels.
        channels: Width of each stage; the first one, an even number, is also the stem's.
        depths: Number of blocks in each stage.
        strides: Stride of the stem and of each stage.

    Raises:
        UserError: The stem's width is odd, or the first stage has a stride, which its shortcut could not follow.
    """
    if channels[0] % 2:
        raise UserError(f"params.channels={list(channels)}: the first must be even")
    if strides[1] != 1:
        raise UserError(f"params.strides={list(strides)}: the second must be 1")
    # Only timm's "deep" stem lets its width be chosen (2 · stem_width); its three layers are replaced by one below.
    network = ResNet(
        BasicBlock,  # type: ignore[arg-type]  # timm annotates an instance
        depths,
        num_classes=num_classes,
        in_chans=in_chans,
        channels=channels,
        stem_type="deep",
        stem_width=channels[0] // 2,
    )
    stem = nn.Conv2d(in_chans, channels[0], 3, stride=strides[0], padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    network.conv1, network.maxpool = stem, nn.Identity()  # type: ignore[assignment]  # inferred from timm's code
    stages: tuple[Any, ...] = (network.layer1, network.layer2, network.layer3, network.layer4)
    for stage, stride in zip(stages, strides[1:], strict=True):
        for layer in (stage[0].conv1, stage[0].downsample and stage[0].downsample[0]):
            if layer is not None:
                layer.stride = (stride, stride)
    return network
