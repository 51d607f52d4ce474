import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastshap_lab.models import build_classifier, build_surrogate
from fastshap_lab.models.freezing import frozen_copy, load_matching
from tests import small


def scrambled_network(**params) -> nn.Module:
    return small.classifier("resnet", **params).network


def norms(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]


@torch.inference_mode()
def test_a_folded_classifier_answers_as_the_original():
    classifier, image = small.classifier("resnet"), small.images(4)
    clone = frozen_copy(classifier)
    assert norms(classifier)
    assert not norms(clone)
    torch.testing.assert_close(clone(image), classifier(image), rtol=1e-5, atol=1e-5)
    assert classifier(image).std(dim=0).min() > 1e-3  # the comparison above says something


@torch.inference_mode()
def test_a_convolutional_explainer_is_folded_block_by_block():
    network, image = small.explainer("unet").network, small.images(4)
    clone = frozen_copy(network)
    assert norms(network)
    assert not norms(clone)
    torch.testing.assert_close(clone(image), network(image), rtol=1e-5, atol=1e-5)


def test_freezing_leaves_the_original_alone_and_shares_nothing_with_it():
    surrogate = small.surrogate("mask_channel").train()
    before = {name: tensor.clone() for name, tensor in surrogate.state_dict().items()}
    clone = frozen_copy(surrogate)
    assert surrogate.training
    assert all(part.training for part in surrogate.modules())
    assert all(parameter.requires_grad for parameter in surrogate.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in surrogate.state_dict().items())
    assert not any(part.training for part in clone.modules())
    assert not any(parameter.requires_grad for parameter in clone.parameters())
    assert not {p.data_ptr() for p in surrogate.parameters()} & {p.data_ptr() for p in clone.parameters()}


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.norm(self.conv(pixels)).mean(dim=(2, 3))
        return features if features.sum() > 0 else -features


def test_networks_that_cannot_be_traced_stay_unfolded():
    classifier, image = small.classifier("resnet"), small.images()
    classifier.network = Untraceable().eval()
    clone = frozen_copy(classifier)
    assert norms(clone)
    torch.testing.assert_close(clone(image), classifier(image))


def test_the_same_architecture_takes_everything():
    source, target = scrambled_network(), scrambled_network(seed=1)
    assert load_matching(target, source.state_dict()) == len(source.state_dict())
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in target.state_dict().items())
    assert all(parameter.requires_grad for parameter in target.parameters())


def test_what_does_not_fit_is_skipped_and_not_counted():
    source, target = scrambled_network(), scrambled_network(seed=1, num_classes=5)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    given = source.state_dict() | {"of another network": torch.zeros(3)}
    assert load_matching(target, given) == len(source.state_dict()) - 2
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, before[name] if name.startswith("fc.") else source.state_dict()[name])


def test_further_input_channels_start_ignored():
    source = scrambled_network()
    wider = build_classifier(**small.network("resnet"), extra_channels=2).network
    assert load_matching(wider, source.state_dict()) == len(source.state_dict())
    assert torch.equal(wider.conv1.weight[:, :3], source.conv1.weight)
    assert not wider.conv1.weight[:, 3:].any()
    narrower = scrambled_network(seed=1)
    untouched = narrower.conv1.weight.clone()
    load_matching(narrower, wider.state_dict())  # never the other way round
    assert torch.equal(narrower.conv1.weight, untouched)


@pytest.mark.parametrize(
    ("masking", "name"), [("mask_channel", "resnet"), ("mask_channel", "vit"), ("attention", "vit")]
)
@torch.inference_mode()
def test_a_surrogate_started_from_a_classifier_answers_as_it_on_the_grand_coalition(masking, name):
    classifier, image = small.classifier(name), small.images(3)
    surrogate = build_surrogate(small.network(name), masking, (2, 3)).eval()
    assert load_matching(surrogate.classifier, classifier.state_dict()) == len(classifier.state_dict())
    logits = surrogate(image, torch.ones(3, 1, 6, dtype=torch.bool))[:, 0]
    torch.testing.assert_close(logits, classifier(image), rtol=1e-6, atol=1e-6)


def vit_of_patches(patch_size: int, name: str = "vit", **description) -> nn.Module:
    return small.classifier(name, image_size=(8, 16), patch_size=patch_size, **description).network


@pytest.mark.parametrize(("old", "new"), [(4, 2), (2, 4), (8, 2), (8, 1)])
@torch.inference_mode()
def test_a_patch_embeds_as_the_sources_patch_of_its_content(old, new):
    source, target = vit_of_patches(old), vit_of_patches(new, seed=1)
    assert load_matching(target, source.state_dict()) == len(source.state_dict())
    patch = torch.randn(5, 3, new, new, generator=torch.Generator().manual_seed(0))
    resized = F.interpolate(patch, size=(old, old), mode="bilinear", antialias=True)
    torch.testing.assert_close(target.patch_embed.proj(patch), source.patch_embed.proj(resized))
    colours = torch.rand(1, 3, 1, 1, generator=torch.Generator().manual_seed(1)).expand(1, 3, 8, 16)
    token, its_source = target.patch_embed(colours), source.patch_embed(colours)
    torch.testing.assert_close(token, its_source[:, :1].expand_as(token))


def test_positions_are_interpolated_and_prefix_tokens_keep_theirs():
    source, target = vit_of_patches(2), vit_of_patches(1, seed=1)
    row, column = torch.arange(4.0).view(4, 1, 1), torch.arange(8.0).view(1, 8, 1)
    slope = torch.tensor([[1.0], [10.0]]) * torch.arange(1.0, 13)  # of rows and columns, in each of 12 features
    state = source.state_dict()
    state["pos_embed"][:, 1:] = (row * slope[0] + column * slope[1]).flatten(0, 1)
    load_matching(target, state)
    assert torch.equal(target.pos_embed[:, 0], source.pos_embed[:, 0])
    # A ramp stays one, half as steep, around the same centre; its ends, which know no neighbours beyond, aside.
    row, column = (torch.arange(8.0).view(8, 1, 1) - 0.5) / 2, (torch.arange(16.0).view(1, 16, 1) - 0.5) / 2
    ramp, given = row * slope[0] + column * slope[1], target.pos_embed[0, 1:].detach().unflatten(0, (8, 16))
    torch.testing.assert_close(given[3:-3, 3:-3], ramp[3:-3, 3:-3])


@pytest.mark.parametrize("name", ["eva02_tiny_patch14_224", "deit_tiny_distilled_patch16_224"])
def test_every_family_takes_other_patches(name):
    source = vit_of_patches(4, "timm", model=name)
    target = vit_of_patches(2, "timm", model=name, seed=1)
    assert load_matching(target, source.state_dict()) == len(source.state_dict())


@torch.inference_mode()
def test_a_surrogate_with_other_patches_and_a_mask_channel_starts_from_a_classifier():
    classifier = small.classifier("vit", image_size=(8, 12), patch_size=4)
    surrogate = build_surrogate(small.network("vit", patch_size=2), "mask_channel", (2, 3)).eval()
    assert load_matching(surrogate.classifier, classifier.state_dict()) == len(classifier.state_dict())
    assert surrogate.classifier.network.patch_embed.proj.weight[:, :3].any()
    assert not surrogate.classifier.network.patch_embed.proj.weight[:, 3:].any()
