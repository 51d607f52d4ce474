"""Networks of torchvision and of strangers, behind the same normalization as all others."""

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from fastshap_lab.attribution import METHODS
from fastshap_lab.attribution.features import find_layers
from fastshap_lab.errors import UserError
from fastshap_lab.inference import build_amortized
from fastshap_lab.models import Classifier, build_classifier, build_explainer, build_surrogate
from fastshap_lab.models.classifier import as_channels
from fastshap_lab.models.foreign import Logits
from fastshap_lab.models.freezing import frozen_copy
from fastshap_lab.models.heads import heads_of
from fastshap_lab.models.specs import ExplainerSpec
from tests import small

HALF = [0.5] * 3


def torchvision_model(model: str, size: tuple[int, int] = (32, 32), num_classes: int = 5, pixels=HALF) -> Classifier:
    torch.manual_seed(0)
    return build_classifier("torchvision", {"model": model}, size, num_classes, pixels, pixels).eval()


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("mobilenet_v3_small", (32, 48)),
        ("vit_b_16", (32, 32)),
        ("maxvit_t", (224, 224)),
        ("googlenet", (64, 64)),
        ("inception_v3", (96, 96)),
        ("swin_t", (32, 64)),
        ("squeezenet1_1", (32, 48)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_torchvisions_models_take_images_of_the_datas_size_and_channels(model, size, channels):
    with torch.device("meta"):
        network = torchvision_model(model, size, pixels=[0.5] * channels)
        assert network(torch.zeros(2, 3, *size)).shape == (2, 5)


def test_a_torchvision_network_is_torchvisions_own():
    ours = torchvision_model("squeezenet1_1")
    theirs = models.squeezenet1_1(num_classes=5).eval()
    theirs.load_state_dict(ours.network.state_dict())
    image = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(ours(image), theirs((image - 0.5) / 0.5))
    torch.testing.assert_close(frozen_copy(ours)(image), ours(image), atol=1e-5, rtol=1e-4)
    with pytest.raises(UserError, match=r"classifier.params.model=vit_b_16: takes square images, and these have 32×48"):
        torchvision_model("vit_b_16", (32, 48))


def test_a_grey_network_sees_the_luminance_and_one_with_alpha_what_is_opaque():
    grey = torch.rand(2, 1, 8, 12).expand(-1, 3, -1, -1)
    torch.testing.assert_close(as_channels(grey, 1), grey[:, :1])  # a grey file's three equal channels
    coloured = small.images()
    torch.testing.assert_close(
        as_channels(coloured, 1)[:, 0], (coloured * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)
    )
    assert torch.equal(as_channels(coloured, 4)[:, :3], coloured)
    assert bool((as_channels(coloured, 4)[:, 3] == 1).all())
    described = small.network("resnet") | {"mean": [0.5], "std": [0.25]}
    network = build_classifier(**described).eval()
    assert network.network.conv1.in_channels == 1
    expected = network.network((as_channels(coloured, 1) - 0.5) / 0.25)
    torch.testing.assert_close(network(coloured), expected)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize(
    "masking", ["mask_channel", "constant", "blur", {"name": "constant", "params": {"colour": [1, 0, 0]}}]
)
def test_surrogates_explainers_and_methods_work_on_networks_of_other_channels(channels, masking):
    pixels = {"mean": [0.4] * channels, "std": [0.25] * channels}
    description = small.explainer_description()
    for part in (description["network"], description["surrogate"]["classifier"], description["classifier"]):
        part |= pixels
    description["surrogate"]["masking"] = masking
    explainer = small.scrambled(lambda: build_amortized(ExplainerSpec.from_json(description)))
    image = small.images()
    explanation = explainer.explain(image)
    game = explainer.game()
    torch.testing.assert_close(explanation.values.sum(dim=(2, 3)), game.grand(image) - game.null(image))
    for name in ("integrated_gradients", "occlusion", "smoothgrad"):
        assert METHODS[name](explainer.classifier).attribute(image).isfinite().all()


def test_other_numbers_of_channels_are_refused():
    with pytest.raises(UserError, match=r"^classifier.mean=\[0.5, 0.5\], .*: each must have one number per channel"):
        build_classifier(**small.network("resnet") | {"mean": [0.5] * 2, "std": [0.5] * 2})
    with pytest.raises(UserError, match=r"each must have one number per channel"):
        build_classifier(**small.network("resnet") | {"mean": [0.5], "std": [0.5] * 3})


def test_a_vision_transformer_explains_a_grey_surrogate():
    pixels = {"mean": [0.4], "std": [0.25]}
    params = {"backbone": {"name": "vit", "params": small.PARAMS["vit"]}}
    explainer = build_explainer(**small.network("vit") | pixels | {"params": params, "grid": [2, 3]})
    assert explainer(small.images()).shape == (2, 6, 3)


class Strange(nn.Module):
    """Views what it is given as it can only be where channels come first, and wraps its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3 * 8 * 12, 3)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, pixels):
        return type("Output", (), {"logits": self.last(self.norm(pixels).view(len(pixels), -1))})


@pytest.mark.parametrize("masking", ["constant", "mean", "blur", "rise_blur"])
def test_maskings_at_the_pixels_serve_foreign_networks(masking):
    network = small.network("import") | {"params": {"path": "mine:make"}}
    strange = Strange().eval()
    surrogate = build_surrogate(network, masking, (2, 3), module=strange).eval()
    image, coalitions = small.images(), small.coalitions(2, 3, 6)
    answer = surrogate(image, coalitions)
    torch.testing.assert_close(frozen_copy(surrogate)(image, coalitions), answer)
    everybody = torch.ones(2, 1, 6, dtype=torch.bool)
    expected = strange(surrogate.classifier.normalize(image)).logits
    torch.testing.assert_close(surrogate(image, everybody)[:, 0], expected)
    with pytest.raises(UserError, match=r"^surrogate: your own network has no channel for the mask"):
        build_surrogate(network, "mask_channel", (2, 3), module=strange)


@pytest.mark.parametrize(
    ("network", "paths"),
    [
        (lambda: timm.create_model("test_resnet"), ["fc"]),
        (lambda: timm.create_model("test_resnet", num_classes=0), []),
        (lambda: timm.create_model("deit_tiny_distilled_patch16_224"), ["head", "head_dist"]),
        (lambda: models.get_model("mobilenet_v3_small"), ["classifier.3"]),
        (lambda: models.get_model("squeezenet1_1"), ["classifier.1"]),
        (lambda: Logits(timm.create_model("test_vit")), ["model.head"]),
        (lambda: Logits(Strange()), ["model.last"]),
        (lambda: nn.Flatten(), []),
    ],
)
def test_the_head_is_the_layer_that_says_the_classes(network, paths):
    with torch.device("meta"):
        assert list(heads_of(network())) == paths


def test_methods_find_their_layers_in_torchvisions_networks_or_say_that_they_do_not_apply():
    image = torch.rand(2, 3, 64, 64)
    resnet = torchvision_model("resnet18", (64, 64))
    assert find_layers(resnet)[0] is resnet.network.layer4
    assert METHODS["grad_cam"](resnet).attribute(image).shape == (2, 2, 2)
    assert METHODS["score_cam"](resnet).attribute(image[:1]).ndim == 3
    assert "has no attention between all of its tokens" in METHODS["rollout"].supports(resnet)
    with torch.device("meta"):
        vit = torchvision_model("vit_b_16", (32, 32))
    assert METHODS["grad_cam"].supports(vit) == "no layer with spatial features is found: name one with layer=…"
    assert "VisionTransformer has no attention between" in METHODS["rollout"].supports(vit)
