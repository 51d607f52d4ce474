"""Residual networks of basic blocks (He et al., CVPR 2016, arXiv:1512.03385), for small images and large ones."""

from timm.models.resnet import BasicBlock, ResNet
from torch import nn


def resnet(
    num_classes: int,
    image_size: tuple[int, int],
    in_chans: int,
    channels: tuple[int, int, int, int] = (64, 128, 256, 512),
    depths: tuple[int, int, int, int] = (2, 2, 2, 2),
    stem_stride: int = 1,
) -> nn.Module:
    """Return timm's ResNet with a 3 × 3 stem and no pooling after it, as is usual on images of 32 pixels and less.

    The defaults are ResNet18. ``channels[0]`` is also the stem's width, so slimmer variants are slim throughout.
    """
    # A "deep" stem is timm's only one whose width can be chosen (2 · stem_width); its three layers give way to one.
    network = ResNet(
        BasicBlock,
        depths,
        num_classes=num_classes,
        in_chans=in_chans,
        channels=channels,
        stem_type="deep",
        stem_width=channels[0] // 2,
    )
    network.conv1 = nn.Conv2d(in_chans, channels[0], 3, stride=stem_stride, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()
    return network
