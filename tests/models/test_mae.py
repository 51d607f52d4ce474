"""The masked autoencoder against loops over patches, on images that are no squares."""

import pytest
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from fastshap_lab.components import build
from fastshap_lab.errors import UserError
from fastshap_lab.models import PRETRAININGS, Classifier, MaskedAutoencoder
from tests import small

PATCH, ROWS, COLUMNS, VISIBLE = 2, 4, 6, 6
SIZE = {"img_size": small.IMAGE_SIZE, "patch_size": PATCH, "embed_dim": 12, "depth": 1, "num_heads": 3}


def autoencoder(network: nn.Module | None = None, **params: object) -> MaskedAutoencoder:
    def make() -> MaskedAutoencoder:
        encoder = small.classifier("vit", num_classes=0)
        if network is not None:
            encoder = Classifier(network, **small.PIXELS, image_size=small.IMAGE_SIZE, num_classes=0)
        settings = {"decoder_width": 12, "decoder_depth": 2, "decoder_heads": 3} | params
        return build(PRETRAININGS, "classifier.pretrain", "mae", settings, encoder=encoder)

    return small.scrambled(make)


def order(number: int = 3, seed: int = 0) -> torch.Tensor:
    return autoencoder().draw(number, torch.Generator().manual_seed(seed))


def corner(patch: int) -> tuple[int, int]:
    row, column = divmod(patch, COLUMNS)
    return PATCH * row, PATCH * column


def test_the_loss_is_the_error_of_each_hidden_patch_normalized_by_itself():
    network, image, patches = autoencoder().double(), small.images(3).double(), order()
    image[0, :, :2, :2] = 0.3  # flat: nothing to predict but zeros, one colour after normalization apart
    predicted = network(image, patches)
    pixels = (image - torch.tensor(small.PIXELS["mean"]).view(3, 1, 1)) / torch.tensor(small.PIXELS["std"]).view(
        3, 1, 1
    )
    for index in range(3):
        errors = []
        for patch in patches[index, VISIBLE:].tolist():
            top, left = corner(patch)
            target = pixels[index, :, top : top + PATCH, left : left + PATCH].flatten()
            variance = sum((value - target.sum() / 12) ** 2 for value in target) / 12
            target = (target - target.sum() / 12) / (variance + 1e-6) ** 0.5
            errors += [(target[k] - predicted[index, patch, k]).item() ** 2 for k in range(12)]
        expected = sum(errors) / (18 * 12)
        assert network.loss(image, patches)[index].item() == pytest.approx(expected, rel=1e-6)


def test_hidden_pixels_do_not_reach_the_encoder():
    network, image, patches = autoencoder(), small.images(3), order()
    latent = network.encode(image, patches)
    assert latent.shape == (3, 1 + VISIBLE, 12)
    hidden, seen = image.clone(), image.clone()
    for index in range(3):
        for patch in patches[index, VISIBLE:].tolist():
            top, left = corner(patch)
            hidden[index, :, top : top + PATCH, left : left + PATCH] = 0
        top, left = corner(int(patches[index, 0]))
        seen[index, :, top, left] = 0
    assert torch.equal(network.encode(hidden, patches), latent)
    assert torch.equal(network(hidden, patches), network(image, patches))
    assert not (network.encode(seen, patches) - latent).abs().amax((1, 2)).lt(1e-3).any()


def test_only_who_is_seen_matters_and_not_in_which_order():
    network, image, patches = autoencoder().double(), small.images(3).double(), order()
    other = torch.cat([patches[:, :VISIBLE].flip(1), patches[:, VISIBLE:].roll(5, 1)], dim=1)
    torch.testing.assert_close(network(image, other), network(image, patches))
    assert not torch.allclose(network(image, order(seed=1)), network(image, patches))
    one = torch.cat([network(image[k : k + 1], patches[k : k + 1]) for k in range(3)])
    torch.testing.assert_close(network(image, patches), one)


def test_patches_come_row_by_row_and_go_back_where_they_were():
    network, image = autoencoder(), small.images(2)
    patches = network.patchify(image)
    assert patches.shape == (2, ROWS * COLUMNS, 12)
    for patch in range(ROWS * COLUMNS):
        top, left = corner(patch)
        assert torch.equal(patches[:, patch], image[:, :, top : top + PATCH, left : left + PATCH].flatten(1))
    assert torch.equal(network.unpatchify(patches), image)


def test_masks_are_drawn_per_image_and_repeat_with_their_seed():
    patches = order(4000)
    assert torch.equal(patches.sort(dim=1).values, torch.arange(ROWS * COLUMNS).expand(4000, -1))
    assert torch.equal(patches, order(4000))
    assert not torch.equal(patches, order(4000, seed=1))
    often = patches[:, :VISIBLE].flatten().bincount() / 4000
    assert (often - 0.25).abs().max() < 0.03  # four standard deviations of 0.0068


def test_every_weight_learns():
    network = autoencoder().train()
    network.loss(small.images(3), order()).mean().backward()
    assert [name for name, weight in network.named_parameters() if not weight.grad.abs().sum() > 0] == []
    assert not [name for name in network.encoder.state_dict() if "head" in name]


def test_a_right_prediction_restores_the_image(monkeypatch):
    network, image, patches = autoencoder(), small.images(3), order()
    masked, completed = network.reconstruct(image, patches)
    seen = torch.zeros(3, ROWS * COLUMNS).scatter_(1, patches[:, :VISIBLE], 1.0).unflatten(1, (ROWS, COLUMNS))
    seen = seen.repeat_interleave(PATCH, 1).repeat_interleave(PATCH, 2).bool().unsqueeze(1)
    grey = torch.tensor(small.PIXELS["mean"]).view(3, 1, 1)
    torch.testing.assert_close(masked, torch.where(seen, image, grey))
    torch.testing.assert_close(torch.where(seen, completed, 0), torch.where(seen, image, 0))
    assert not torch.allclose(completed, image, atol=0.1)
    pixels = network.patchify(network.encoder.normalize(image))
    right = (pixels - pixels.mean(2, keepdim=True)) / pixels.std(2, keepdim=True, correction=0)
    monkeypatch.setattr(network, "forward", lambda *_: right)
    torch.testing.assert_close(network.reconstruct(image, patches)[1], image, atol=1e-4, rtol=0)
    assert network.loss(image, patches).max() < 1e-6


@pytest.mark.parametrize(
    ("network", "prefix"),
    [
        (lambda: VisionTransformer(**SIZE, num_classes=0, class_token=False, global_pool="avg"), 0),
        (lambda: VisionTransformer(**SIZE, num_classes=0, reg_tokens=2, dynamic_img_size=True), 3),
        (lambda: VisionTransformerDistilled(**SIZE, num_classes=0), 2),
    ],
    ids=["mean pooling", "registers", "distilled"],
)
def test_prefix_tokens_are_always_seen(network, prefix):
    mae, image, patches = autoencoder(network()), small.images(3), order()
    assert mae.encode(image, patches).shape == (3, prefix + VISIBLE, 12)
    assert mae(image, patches).shape == (3, ROWS * COLUMNS, 12)


@pytest.mark.parametrize(
    ("network", "params", "line"),
    [
        (lambda: small.classifier("resnet").network, {}, "classifier.pretrain.name=mae: ResNet is no plain vision"),
        (lambda: Eva(**SIZE, use_rot_pos_emb=True), {}, "classifier.pretrain.name=mae: Eva is no plain vision"),
        (lambda: None, {"mask_ratio": 0.0}, "classifier.pretrain.params.mask_ratio=0.0: shows 24 of 24 patches"),
        (lambda: None, {"mask_ratio": 0.99}, "classifier.pretrain.params.mask_ratio=0.99: shows 0 of 24 patches"),
        (lambda: None, {"mask_ratio": 1.0}, "classifier.pretrain.params.mask_ratio=1.0: must be less than 1"),
        (lambda: None, {"decoder_heads": 5}, "classifier.pretrain.params.decoder_width=12: must be a multiple of 4"),
        (lambda: None, {"decoder_width": 9}, "classifier.pretrain.params.decoder_width=9: must be a multiple of 4"),
        (lambda: None, {"depth": 9}, "classifier.pretrain.params.depth: unknown to mae, did you mean decoder_depth?"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(network, params, line):
    with pytest.raises(UserError) as error:
        autoencoder(network(), **params)
    assert str(error.value).startswith(line)
