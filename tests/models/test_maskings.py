import pytest
import torch
from torch import Tensor, nn

from fastshap_lab.errors import UserError
from fastshap_lab.models import Surrogate, build_surrogate
from tests import small


def without_tokens(surrogate: Surrogate, image: Tensor, coalition: Tensor) -> Tensor:
    """Return the logits of one image of whose tokens the absent players' never enter the sequence."""
    network, grid = surrogate.classifier.network, surrogate.grid
    patch, columns = network.patch_embed.patch_size, network.patch_embed.grid_size[1]
    embedded = network.patch_embed(surrogate.classifier.normalize(image.unsqueeze(0)))[0]
    sequence = [network.cls_token[0, 0] + network.pos_embed[0, 0]]
    for token, embedding in enumerate(embedded):
        y, x = token // columns * patch[0], token % columns * patch[1]  # its first pixel
        player = y // grid.patch_size[0] * grid.shape[1] + x // grid.patch_size[1]
        if coalition[player]:
            sequence.append(embedding + network.pos_embed[0, 1 + token])
    tokens = torch.stack(sequence).unsqueeze(0)
    for block in network.blocks:
        tokens = block(tokens)
    return network.head(network.norm(tokens)[0, 0])


@torch.inference_mode()
@pytest.mark.parametrize("grid", [(4, 6), (2, 3), (4, 2), (1, 6)], ids=str)
@pytest.mark.parametrize("fused", [True, False])
def test_masked_attention_is_leaving_tokens_out(grid, fused):
    surrogate = small.surrogate("attention", grid)
    for block in surrogate.classifier.network.blocks:
        block.attn.fused_attn = fused
    num_players = surrogate.grid.num_players
    image, coalitions = small.images(2), small.coalitions(2, 4, num_players)
    coalitions[:, 0], coalitions[:, 1] = True, False
    logits = surrogate(image, coalitions)
    for i in range(2):
        for m in range(4):
            expected = without_tokens(surrogate, image[i], coalitions[i, m])
            torch.testing.assert_close(logits[i, m], expected, rtol=1e-5, atol=1e-5)
    assert (logits[0, 0] - logits[0, 1]).abs().max() > 0.05


@torch.inference_mode()
def test_masked_attention_of_the_grand_coalition_is_the_classifier():
    surrogate, image = small.surrogate("attention"), small.images(2)
    everyone = torch.ones(2, 1, 6, dtype=torch.bool)
    torch.testing.assert_close(surrogate(image, everyone)[:, 0], surrogate.classifier(image), rtol=1e-5, atol=1e-5)


class Recorder(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        self.pixels = pixels
        return pixels.mean(dim=(2, 3))


@pytest.mark.parametrize("name", ["resnet", "vit"])
@torch.inference_mode()
def test_mask_channel_shows_the_grand_coalition_normalized_with_ones(name):
    surrogate, image = small.surrogate("mask_channel", name=name), small.images(2)
    seen = torch.cat([surrogate.classifier.normalize(image), torch.ones(2, 1, *small.IMAGE_SIZE)], dim=1)
    logits = surrogate(image, torch.ones(2, 1, 6, dtype=torch.bool))[:, 0]
    torch.testing.assert_close(logits, surrogate.classifier.network(seen))


@torch.inference_mode()
def test_mask_channel_shows_absent_players_as_the_mean_colour():
    surrogate, image, coalition = small.surrogate("mask_channel"), small.images(1), torch.tensor([[[1, 0, 0, 0, 0, 1]]])
    surrogate.classifier.network = recorder = Recorder()
    surrogate(image, coalition.bool())
    normalized = surrogate.classifier.normalize(image)
    mask = torch.zeros(1, 1, 8, 12)
    mask[..., :4, :4] = mask[..., 4:, 8:] = 1  # first and last of 2 × 3 players on 8 × 12 pixels
    assert torch.equal(recorder.pixels, torch.cat([normalized * mask, mask], dim=1))


@pytest.mark.parametrize(
    ("name", "grid", "message"),
    [
        ("resnet", (2, 3), "ResNet is not of timm.*mask_channel"),
        ("vit", (8, 12), "4×6 patches do not make 8×12 players"),
        ("vit", (4, 4), "4×6 patches do not make 4×4 players"),
        ("vit", (8, 6), "4×6 patches do not make 8×6 players"),
    ],
)
def test_attention_masking_refuses_what_does_not_fit(name, grid, message):
    with pytest.raises(UserError, match=message):
        build_surrogate(small.network(name), "attention", grid)


def test_unknown_maskings_are_named():
    with pytest.raises(UserError, match=r"surrogate.masking=atention: unknown, did you mean attention\?"):
        build_surrogate(small.network("vit"), "atention", (2, 3))
