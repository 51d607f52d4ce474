import pytest
import timm
import torch
from torch import nn

from fastshap_lab.errors import UserError
from fastshap_lab.models.resnet import resnet
from fastshap_lab.models.swin import swin
from fastshap_lab.models.vit import vit
from tests import small


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_default_resnet_is_resnet18_but_for_its_stem():
    reference, network = timm.create_model("resnet18", num_classes=10), resnet(10, (32, 32), 3)
    assert count(network) == count(reference) - 64 * 3 * (7 * 7 - 3 * 3)
    assert count(network) == pytest.approx(11.17e6, abs=5e3)
    for layer in ("bn1", "layer1", "layer2", "layer3", "layer4", "fc"):
        state, expected = getattr(network, layer).state_dict(), getattr(reference, layer).state_dict()
        assert {name: tensor.shape for name, tensor in state.items()} == {n: t.shape for n, t in expected.items()}


@pytest.mark.parametrize(
    ("strides", "image_size", "features"),
    [
        ((1, 1, 2, 2, 2), (32, 32), (4, 4)),
        ((2, 1, 2, 2, 2), (64, 32), (4, 2)),
        ((1, 1, 1, 2, 1), (16, 16), (8, 8)),
    ],
)
def test_strides_are_those_of_the_stem_and_the_stages(strides, image_size, features):
    network = resnet(10, image_size, 4, channels=(8, 8, 16, 32), depths=(1, 2, 1, 1), strides=strides).eval()
    assert network.forward_features(torch.rand(1, 4, *image_size)).shape == (1, 32, *features)
    assert network(torch.rand(1, 4, *image_size)).shape == (1, 10)


def test_slim_resnets_are_slim_throughout():
    network = resnet(10, (32, 32), 3, channels=(16, 32, 64, 128), depths=(1, 1, 1, 1))
    assert network.conv1.weight.shape == (16, 3, 3, 3)
    # Stem, then per stage two convolutions with their norms, from the second on a projection with its own, the head.
    widths, weights = [16, 32, 64, 128], 16 * 3 * 9 + 2 * 16
    for before, width in zip([16, *widths], widths, strict=False):
        weights += before * width * 9 + width * width * 9 + 4 * width
        weights += before * width + 2 * width if before != width else 0
    assert count(network) == weights + 128 * 10 + 10


def test_the_default_vit_has_64_patches_a_class_token_and_6_million_parameters():
    network = vit(10, (32, 32), 3).eval()
    # Per block: two norms, queries, keys, values and projection (four matrices), two layers of an MLP as wide.
    block, width = 2 * 2 * 384 + 6 * (384 * 384 + 384), 384
    assert count(network) == 7 * block + (3 * 4 * 4 + 1) * width + 65 * width + width + 2 * width + 10 * width + 10
    assert count(network) == pytest.approx(6.3e6, abs=5e4)
    assert network.forward_features(torch.rand(1, 3, 32, 32)).shape == (1, 65, 384)


def test_the_vits_options_reach_the_network():
    network = vit(5, (8, 12), 4, patch_size=2, width=12, depth=3, num_heads=3, mlp_width=20, drop_path=0.5)
    assert network.patch_embed.grid_size == (4, 6)
    assert network.patch_embed.proj.weight.shape == (12, 4, 2, 2)
    assert [len(network.blocks), network.blocks[0].attn.num_heads] == [3, 3]
    assert network.blocks[0].mlp.fc1.out_features == 20
    assert [block.drop_path1.drop_prob if index else 0 for index, block in enumerate(network.blocks)] == [0, 0.25, 0.5]
    assert network(torch.rand(2, 4, 8, 12)).shape == (2, 5)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"patch_size": 5}, "params.patch_size=5: does not divide an image of 32×20"),
        ({"patch_size": 8}, "params.patch_size=8: does not divide an image of 32×20"),  # divides one side only
        ({"num_heads": 7}, "params.num_heads=7: does not divide the width 384"),
    ],
)
def test_vits_that_cannot_be_are_refused(params, message):
    with pytest.raises(UserError, match=message):
        vit(10, (32, 20), 3, **params)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"channels": (15, 32, 64, 128)}, r"params.channels=\[15, 32, 64, 128\]: the first must be even"),
        ({"strides": (1, 2, 2, 2, 2)}, r"params.strides=\[1, 2, 2, 2, 2\]: the second must be 1"),
    ],
)
def test_resnets_that_cannot_be_are_refused(params, message):
    with pytest.raises(UserError, match=message):
        resnet(10, (32, 32), 3, **params)


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_a_classifier_normalizes_by_itself(name):
    classifier, image = small.classifier(name), small.images(3)
    by_hand = torch.stack([(image[:, c] - small.PIXELS["mean"][c]) / small.PIXELS["std"][c] for c in range(3)], dim=1)
    torch.testing.assert_close(classifier.normalize(image), by_hand)
    torch.testing.assert_close(classifier(image), classifier.network(by_hand))
    assert not torch.allclose(classifier(image), classifier.network(image))


def test_normalization_is_not_among_the_weights_and_moves_with_them():
    classifier = small.classifier("resnet")
    assert all(name.startswith("network.") for name in classifier.state_dict())
    assert {classifier.double().mean.dtype, classifier.std.dtype} == {torch.float64}


def test_a_distilled_vit_has_two_heads_and_two_prefix_tokens():
    network = vit(5, (8, 12), 3, patch_size=2, width=12, depth=1, num_heads=3, mlp_width=20, distilled=True).eval()
    assert (network.num_prefix_tokens, len(network.get_classifier())) == (2, 2)
    assert network(torch.rand(1, 3, 8, 12)).shape == (1, 5)


def test_the_default_swin_is_swin_tiny_but_for_its_patches_and_windows():
    reference, network = timm.create_model("swin_tiny_patch4_window7_224", num_classes=10), swin(10, (32, 32), 3)
    patches = 3 * 96 * (4 * 4 - 2 * 2)
    # Relative positions in a window, of each head: 7×7 everywhere there, here 4×4, and 2×2 in the last stage.
    places = (2 * 3 + 2 * 6 + 6 * 12) * (13 * 13 - 7 * 7) + 2 * 24 * (13 * 13 - 3 * 3)
    assert count(network) == count(reference) - patches - places
    assert swin(5, (16, 24), 4, width=8, depths=(1, 2), num_heads=(1, 2))(torch.rand(1, 4, 16, 24)).shape == (1, 5)


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"depths": (2, 2), "num_heads": (2,)}, "must have one number for each of 2 stages"),
        ({"depths": (2, 2), "num_heads": (2, 5), "width": 8}, "5 does not divide the width 16"),
        (
            {"depths": (1, 1, 1), "num_heads": (1, 1, 1), "patch_size": 3},
            "3 stages of it do not divide an image of 32×32",
        ),
    ],
)
def test_a_swin_that_cannot_be_is_refused(wrong, line):
    with pytest.raises(UserError, match=line):
        swin(10, (32, 32), 3, **wrong)
