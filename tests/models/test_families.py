"""Any timm model: what runs, what is refused, and whether absence is absence whatever a family's tokens."""

import pytest
import timm
import torch
from torch import Tensor, nn

from fastshap_lab.errors import UserError
from fastshap_lab.models import Surrogate, build_classifier, build_explainer, build_surrogate
from fastshap_lab.models.freezing import frozen_copy

TOKENS = {
    "vit_tiny_patch16_224": "class token",
    "deit_tiny_distilled_patch16_224": "two prefix tokens",
    "vit_small_patch14_reg4_dinov2": "class token and registers",
    "vit_wee_patch16_reg1_gap_256": "register, mean pooling",
    "vit_medium_patch16_gap_240": "no prefix token, mean pooling",
    "eva02_tiny_patch14_224": "rotary positions",
}
OTHERS = {
    "resnet18": "ResNet",
    "convnext_atto": "ConvNeXt",
    "swin_tiny_patch4_window7_224": "SwinTransformer",
    "efficientnet_b0": "EfficientNet",
}
SIZE, GRID = (32, 48), (2, 3)  # a player owns 2×2 patches of 8×8 pixels


def description(model: str) -> dict:
    params = {"model": model} | ({"patch_size": 8} if model in TOKENS else {})
    half = [0.5] * 3
    return {"name": "timm", "params": params, "image_size": SIZE, "num_classes": 5, "mean": half, "std": half}


def surrogate(model: str, masking: str, grid: tuple[int, int] = GRID) -> Surrogate:
    torch.manual_seed(0)
    made = build_surrogate(description(model), masking, grid).eval()
    with torch.no_grad():  # away from fresh heads that answer zero to everything
        for parameter in made.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return made


IMAGE = torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(1))
COALITIONS = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(2)) < 0.5


def dropped(network: nn.Module, pixels: Tensor, present: Tensor) -> Tensor:
    """Return the logits of one image with the absent patches really left out of timm's own sequence."""
    tokens = network._pos_embed(network.patch_embed(pixels))
    kept = torch.cat([torch.ones(network.num_prefix_tokens, dtype=torch.bool), present])
    features = network.norm(network.blocks(network.norm_pre(tokens[:, kept])))
    return network.forward_head(features)


@pytest.mark.parametrize("model", [name for name in TOKENS if not name.startswith("eva")])
def test_masked_attention_gives_the_logits_of_the_sequence_without_absent_patches(model):
    masked = surrogate(model, "attention")
    coalitions = COALITIONS.clone()
    coalitions[..., 0] = True  # a mean over no patch is another matter
    with torch.no_grad():
        logits = masked(IMAGE, coalitions)
        for image, own, found in zip(IMAGE, coalitions, logits, strict=True):
            pixels = masked.classifier.normalize(image.unsqueeze(0))
            for patches, answer in zip(
                masked.masking.token_players.to_pixels(own[None])[0].flatten(1), found, strict=True
            ):
                expected = dropped(masked.classifier.network, pixels, patches)[0]
                torch.testing.assert_close(answer, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", TOKENS)
def test_absent_patches_do_not_count_and_present_ones_do(model):
    masked = surrogate(model, "attention")
    coalitions = COALITIONS[:, :1].clone()
    coalitions[:, :, 0], coalitions[:, :, 1] = True, False
    pixels = masked.grid.to_pixels(coalitions)[:, 0]
    with torch.no_grad():
        answer = masked(IMAGE, coalitions)
        torch.testing.assert_close(masked(torch.where(pixels, IMAGE, 1 - IMAGE), coalitions), answer)
        assert (masked(torch.where(pixels, 1 - IMAGE, IMAGE), coalitions) - answer).abs().amax(dim=-1).min() > 1e-4


@pytest.mark.parametrize("model", TOKENS)
def test_everybody_is_the_classifier_and_nobody_ignores_the_image(model):
    masked = surrogate(model, "attention")
    everybody = torch.ones(3, 1, 6, dtype=torch.bool)
    with torch.no_grad():
        torch.testing.assert_close(masked(IMAGE, everybody)[:, 0], masked.classifier(IMAGE), rtol=1e-5, atol=1e-5)
        nobody = masked(IMAGE, ~everybody)
    assert nobody.isfinite().all()
    torch.testing.assert_close(nobody, nobody[:1].expand_as(nobody))


@pytest.mark.parametrize("model", ["vit_medium_patch16_gap_240", "vit_wee_patch16_reg1_gap_256"])
def test_a_mean_of_no_patch_is_learned(model):
    masked = surrogate(model, "attention").train()
    masked(IMAGE, torch.zeros(3, 1, 6, dtype=torch.bool)).square().sum().backward()
    assert masked.masking.null.grad.abs().sum() > 0
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in masked.parameters())


@pytest.mark.parametrize("model", [*TOKENS, *OTHERS])
def test_every_family_takes_a_mask_channel_and_its_frozen_game_agrees(model):
    made = surrogate(model, "mask_channel")
    with torch.no_grad():
        expected = made(IMAGE, COALITIONS)
    torch.testing.assert_close(
        frozen_copy(made).game("logits").values(IMAGE, COALITIONS), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("model", TOKENS)
def test_token_families_carry_an_explainer_that_learns_everywhere(model):
    given = description(model)
    backbone = {"name": "timm", "params": given["params"]}
    explainer = build_explainer("vit", {"backbone": backbone}, SIZE, 5, given["mean"], given["std"], GRID)
    source = build_classifier(**given).network
    explainer.start_from(source)
    torch.testing.assert_close(explainer.backbone.patch_embed.proj.weight, source.patch_embed.proj.weight)
    raw = explainer(IMAGE)
    assert raw.shape == (3, 6, 5)
    raw.square().sum().backward()
    assert not [name for name, parameter in explainer.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize(("model", "family"), OTHERS.items())
def test_other_families_say_that_they_have_no_attention_to_mask(model, family):
    with pytest.raises(UserError, match=f"surrogate.masking=attention: {family} is not .*mask_channel"):
        build_surrogate(description(model), "attention", GRID)
    backbone = {"name": "timm", "params": {"model": model}}
    with pytest.raises(UserError, match=f"explainer=vit: .* got {family}"):
        build_explainer("vit", {"backbone": backbone}, SIZE, 5, [0.5] * 3, [0.5] * 3, GRID)


@pytest.mark.parametrize(
    ("model", "patch_size", "line"),
    [
        ("resnet81", None, "no model of timm .*did you mean resnet18"),
        ("hf-hub:timm/resnet18", None, "no model of timm"),
        ("local-dir:/tmp", None, "no model of timm"),
        ("vit_tiny_patch16_224", 7, "its patches of 7×7 do not divide images of 32×48"),
        ("resnet18", 8, "cannot be built .*patch_size"),
    ],
)
def test_models_that_cannot_be_built_are_named(model, patch_size, line):
    params = {"model": model} | ({"patch_size": patch_size} if patch_size else {})
    with pytest.raises(UserError, match=rf"params.model={model}: {line}"):
        build_classifier(**description(model) | {"params": params})


def test_nothing_but_the_named_arguments_reaches_timm():
    for key in ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        with pytest.raises(UserError, match=rf"classifier.params.{key}: unknown to timm"):
            build_classifier(**description("resnet18") | {"params": {"model": "resnet18", key: "x"}})
    assert "resnet18" in timm.list_models()
