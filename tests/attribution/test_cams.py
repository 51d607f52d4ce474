"""Class activation maps, against sums written out and against captum."""

import captum.attr
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import SwinTransformer, VisionTransformer

from fastshap_lab.attribution import METHODS
from fastshap_lab.attribution.cam import CAM
from fastshap_lab.attribution.features import find_layers
from fastshap_lab.attribution.gradcam import AttentionGradCAM, GradCAM, SignedGradCAM
from fastshap_lab.attribution.recording import recorded_activations
from fastshap_lab.attribution.scorecam import ScoreCAM
from fastshap_lab.errors import UserError
from fastshap_lab.images import normalize_map
from fastshap_lab.models import build_classifier
from tests import small
from tests.attribution.by_hand import by_attention, forward_by_hand
from tests.attribution.families import GRID, family, images

IMAGES = images(2, dtype=torch.float64)
TARGETS = torch.tensor([2, 0])


class Plain(nn.Module):
    """A network of no library: its features are the input of a pooling, or nearly."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True), nn.Conv2d(5, 6, 3), nn.Tanh())
        self.pool, self.between, self.head = nn.AdaptiveAvgPool2d(1), between, nn.Linear(6, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.between(self.pool(self.features(pixels)).flatten(1)))


def test_the_layer_is_found_from_the_model():
    plain = Plain(nn.Identity())
    resnet, vit, swin = (family(kind) for kind in ("resnet", "vit", "swin"))
    assert find_layers(plain) == [plain.features, plain.features[2], plain.features[0]]
    assert find_layers(nn.Sequential(plain)) == find_layers(plain)
    assert find_layers(plain, "features.0") == [plain.features[0]]
    assert find_layers(resnet)[:2] == [resnet.network.layer4, resnet.network.layer3]
    assert find_layers(vit) == [vit.network.blocks[-1].norm1]
    assert find_layers(swin) == [swin.network.layers[-1].blocks[-1].norm1]
    assert find_layers(nn.Linear(3, 2)) == []
    with pytest.raises(UserError, match="GradCAM: no layer with spatial features"):
        GradCAM(nn.Linear(3, 2))
    with pytest.raises(UserError, match="layer=stem: the model has no module of that name"):
        GradCAM(plain, layer="stem")
    with pytest.raises(UserError, match=r"Linear returns \(2, 4\), not features with rows and columns"):
        GradCAM(plain, layer="head").attribute(IMAGES.float(), 0)


@pytest.mark.parametrize(
    "network",
    [
        VisionTransformer(image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=8),
        SwinTransformer([4, 4], 8, [1, 1], [1, 2], [2, 2]),
    ],
)
def test_convolutions_before_attention_are_not_what_an_answer_is_made_of(network):
    assert find_layers(network) == []
    with pytest.raises(UserError, match="name one with layer=…"):
        ScoreCAM(network)


def test_a_pooling_by_attention_is_no_hindrance():
    class AttentionPool(nn.AdaptiveAvgPool2d):
        """Called as CLIP's."""

    model = Plain(nn.Identity())
    model.pool = AttentionPool(1)
    assert find_layers(model)[0] is model.features


class Stages(nn.Module):
    """As torchvision's ResNet: a part per stage."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(nn.Conv2d(given, 5, 3, 2, 1), nn.Softplus()) for given in (3, 5, 5)
        )
        self.head = nn.Linear(5, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.layer3(self.layer2(self.layer1(pixels))).mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("model", "side", "name"),
    [(family("resnet"), 4, "network.layer2"), (family("resnet"), 8, "network.layer3"), (Stages(), 4, "layer1")],
    ids=["timm's", "timm's, larger", "another"],
)
@pytest.mark.parametrize("kind", ["grad_cam", "signed_grad_cam", "score_cam"])
def test_of_features_with_a_single_place_there_is_no_map(model, side, name, kind):
    image = images(2)[:, :, :side, :side]
    found = METHODS[kind](model).attribute(image, TARGETS)
    assert found.shape == (2, 2, 2)
    torch.testing.assert_close(found, METHODS[kind](model, layer=name).attribute(image, TARGETS))
    called = next(label for label, module in model.named_modules() if module is find_layers(model)[0])
    line = f"on images of {side}×{side}, the layer's features have a single position: a map needs more"
    with pytest.raises(UserError, match=line):
        METHODS[kind](model, layer=called).attribute(image, TARGETS)


def test_a_class_activation_map_of_a_single_place_does_not_apply():
    with pytest.raises(UserError, match="on images of 4×4, the layer's features have a single position"):
        CAM(family("resnet")).attribute(images(2)[:, :, :4, :4], TARGETS)


class Last(nn.Module):
    """Has its channels last in between."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.last, self.first = nn.Conv2d(3, 5, 3), nn.Softplus(), nn.Identity()
        self.head = nn.Linear(5, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        last = self.last(self.features(pixels).permute(0, 2, 3, 1))
        return self.head(self.first(last.permute(0, 3, 1, 2)).square().mean(dim=(2, 3)))


def test_channels_may_be_last():
    model = Last().double()
    expected = SignedGradCAM(model, "first").attribute(IMAGES, TARGETS)
    assert expected.shape == (2, 6, 10)
    torch.testing.assert_close(SignedGradCAM(model, "last").attribute(IMAGES, TARGETS), expected)


def test_layers_of_a_swin_come_in_three_layouts():
    swin = family("swin").double()
    maps = {
        name: GradCAM(swin, f"network.{name}").attribute(IMAGES, TARGETS)
        for name in ("patch_embed.proj", "layers.0.blocks.1", "layers.0.blocks.1.norm2")
    }
    assert {name: found.shape for name, found in maps.items()} == dict.fromkeys(maps, (2, 4, 6))
    # A norm sees the places as rows of a list; its gradient is zero in the mean of features, not of places.
    with pytest.raises(UserError, match=r"returns \(12, 4, 8\), not features with rows and columns"):
        GradCAM(swin, "network.layers.0.blocks.1.attn").attribute(IMAGES, TARGETS)  # windows
    flat = swin.network.layers[0].blocks[1].norm2
    with recorded_activations([flat]) as seen:
        logits = swin(IMAGES)
    (gradient,) = torch.autograd.grad(logits.gather(1, TARGETS.unsqueeze(1)).sum(), [seen[flat]])
    expected = (gradient.mean(dim=1, keepdim=True) * seen[flat]).sum(dim=2).view(2, 4, 6).clamp_min(0)
    torch.testing.assert_close(maps["layers.0.blocks.1.norm2"], expected)


@pytest.mark.parametrize("name", ["layer3", "layer4"])
def test_grad_cam_of_a_resnet_is_captums(name):
    model = family("resnet").double()
    layer = model.network.get_submodule(name)
    theirs = captum.attr.LayerGradCam(model, layer).attribute(IMAGES, TARGETS).squeeze(1).detach()
    torch.testing.assert_close(SignedGradCAM(model, f"network.{name}").attribute(IMAGES, TARGETS), theirs)
    torch.testing.assert_close(GradCAM(model, f"network.{name}").attribute(IMAGES, TARGETS), theirs.clamp_min(0))


@pytest.mark.parametrize("kind", ["resnet", "vit", "distilled"])
@pytest.mark.parametrize("name", ["grad_cam", "score_cam"])
def test_they_are_those_of_pytorch_grad_cam(name, kind):
    other = pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    model = family(kind)
    network, x = getattr(model, "network", model), images(2)
    prefix = getattr(network, "num_prefix_tokens", 0)

    def to_feature_map(tokens: Tensor) -> Tensor:
        return tokens if tokens.ndim == 4 else tokens[:, prefix:].transpose(1, 2).unflatten(2, GRID)

    found = METHODS[name](network).attribute(x, TARGETS)
    makes = {"grad_cam": other.GradCAM, "score_cam": other.ScoreCAM}[name]
    with makes(network, [find_layers(network)[0]], to_feature_map) as cam:
        theirs = torch.from_numpy(cam(x, [ClassifierOutputTarget(target) for target in TARGETS.tolist()]))
    # As theirs are: stretched, resized, and stretched again.
    found = nn.functional.interpolate(normalize_map(found).unsqueeze(1), x.shape[2:], mode="bilinear")[:, 0]
    assert theirs.amax() > 0
    torch.testing.assert_close(normalize_map(found), theirs.float(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("given", [{}, {"target": 1}], ids=str)
def test_grad_cam_takes_one_pass_and_goes_back_to_its_layer_only(given):
    model, seen, asked = family("resnet"), [], []
    handles = [
        model.register_forward_hook(lambda module, args, logits: seen.append(len(logits))),
        model.network.layer3.register_forward_hook(lambda module, args, output: asked.append(output.requires_grad)),
    ]
    found = GradCAM(model).attribute(images(), **given)
    for handle in handles:
        handle.remove()
    assert seen == [3]
    assert asked == [False]
    classes = given.get("target", model(images()).argmax(dim=1))
    torch.testing.assert_close(found, GradCAM(model).attribute(images(), classes))


@pytest.mark.parametrize("kind", ["vit", "distilled"])
def test_grad_cam_of_tokens(kind):
    model = family(kind).double()
    network = getattr(model, "network", model)
    prefix = network.num_prefix_tokens
    for image, target in zip(IMAGES, TARGETS.tolist(), strict=True):
        pixels = model.normalize(image) if hasattr(model, "normalize") else image
        done = forward_by_hand(network, pixels)
        tokens = done.blocks[-1].normed1
        (gradient,) = torch.autograd.grad(done.logits[target], tokens)
        weights = [gradient[prefix:, d].sum() / 6 for d in range(12)]
        expected = torch.stack([sum(weights[d] * tokens[t, d] for d in range(12)) for t in range(prefix, prefix + 6)])
        found = SignedGradCAM(model).attribute(image.unsqueeze(0), target)
        torch.testing.assert_close(found, expected.detach().view(1, *GRID))


def test_grad_cam_of_windows_keeps_places_in_order():
    model = family("swin").double()
    kept = []
    layer = model.network.layers[-1].blocks[-1].norm1
    handle = layer.register_forward_hook(lambda module, args, output: kept.append(output))
    logits = model(IMAGES)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[[0, 1], TARGETS].sum(), kept)
    expected = torch.stack(
        [
            torch.stack([sum(g[..., d].mean() * f[..., d] for d in range(f.shape[-1]))])[0]
            for f, g in zip(kept[0], gradient, strict=True)
        ]
    )
    torch.testing.assert_close(SignedGradCAM(model).attribute(IMAGES, TARGETS), expected.detach())


def test_attention_grad_cam():
    model = family("vit").double()
    for image, target in zip(IMAGES, TARGETS.tolist(), strict=True):
        pixels = model.normalize(image)
        attention = forward_by_hand(model.network, pixels).blocks[-1].attention
        gradient = by_attention(model.network, pixels, target)[-1]
        heads = [attention[a, 0, 1:] * gradient[a, 0, 1:].mean() for a in range(3)]
        expected = (sum(heads) / 3).clamp(min=0).detach().view(1, *GRID)
        torch.testing.assert_close(AttentionGradCAM(model).attribute(image.unsqueeze(0), target), expected)


@pytest.mark.parametrize("kind", ["resnet", "swin", "plain"])
@torch.no_grad()
def test_class_activation_maps_add_up_to_the_logits_without_the_bias(kind):
    model = Plain(nn.Identity()).double().eval() if kind == "plain" else family(kind).double()
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    found = CAM(model).attribute_all(IMAGES)
    torch.testing.assert_close(found.sum(dim=(2, 3)) + head.bias, model(IMAGES))
    if kind == "plain":
        features = model.features(IMAGES)
        for k in range(4):
            expected = sum(head.weight[k, d] * features[:, d] for d in range(6)) / features[0, 0].numel()
            torch.testing.assert_close(found[:, k], expected)


def test_class_activation_maps_are_refused_where_they_would_not_be_true():
    with pytest.raises(UserError, match="the logits are not linear in the mean of the features"):
        CAM(Plain(nn.Sigmoid())).attribute(IMAGES.float(), 0)
    with pytest.raises(UserError, match="CAM: the model has no average pooling"):
        CAM(family("vit"))
    with pytest.raises(UserError, match="classes are numbered 0 to 3"):
        CAM(Plain(nn.Identity())).attribute(IMAGES.float(), 4)


@pytest.mark.parametrize("weights", ["softmax", "probability"])
@torch.no_grad()
def test_score_cam(weights):
    model = Plain(nn.Identity()).double().eval()
    for parameter in model.features[2].parameters():
        parameter[0] = 0  # a constant feature
    image, target = IMAGES[:1], 2
    planes = model.features(image)[0]
    scores, terms = [], []
    for plane in planes:
        options = {"size": (8, 12), "mode": "bilinear", "align_corners": weights == "softmax"}
        large = nn.functional.interpolate(plane[None, None], **options)[0, 0]
        spread = large.max() - large.min()
        mask = (large - large.min()) / spread if spread > 0 else torch.zeros_like(large)
        logits = model(image * mask)[0]
        scores.append(logits[target] if weights == "softmax" else logits.softmax(0)[target] * (spread > 0))
        terms.append(plane if weights == "softmax" else large)
    if weights == "softmax":
        total = sum(score.exp() for score in scores)
        scores = [score.exp() / total for score in scores]
    expected = sum(score * term for score, term in zip(scores, terms, strict=True)).clamp(min=0)
    found = ScoreCAM(model, weights, layer="features", max_batch=4).attribute(image, target)
    torch.testing.assert_close(found[0], expected)


@pytest.mark.parametrize(
    "name", ["grad_cam", "signed_grad_cam", "cam", "saliency", "integrated_gradients", "smoothgrad"]
)
def test_where_nothing_matters_maps_are_zero(name):
    model = Plain(nn.Identity())
    nn.init.zeros_(model.head.weight)
    assert (METHODS[name](model).attribute(IMAGES.float(), 1) == 0).all()


def test_a_regressions_maps_are_in_the_units_of_its_targets():
    described = small.network("resnet", (32, 48), 2)
    task = {"name": "regression", "params": {"mean": [40.0, -3.0], "spread": [15.0, 0.2]}}
    model = small.scrambled(lambda: build_classifier(**described, task=task), 3)
    image = small.images(3, (32, 48))
    maps = METHODS["cam"](model).attribute_all(image)
    head = model.network.get_classifier()
    with torch.no_grad():
        rest = head.bias * head.spread + head.mean
        torch.testing.assert_close(maps.sum(dim=(2, 3)) + rest, model(image), rtol=1e-4, atol=1e-3)
    # 40 and -3 are what is expected: the target further from that, in spreads, is explained where none is named.
    with torch.no_grad():
        unusual = ((model(image) - head.mean) / head.spread).abs().argmax(dim=1)
    assert set(unusual.tolist()) != set(model(image).argmax(dim=1).tolist())
    top = METHODS["grad_cam"](model).attribute(image)
    torch.testing.assert_close(top, METHODS["grad_cam"](model).attribute(image, unusual))
