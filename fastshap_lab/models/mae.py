"""Masked autoencoders: a vision transformer learns from images without labels, by reconstructing hidden patches."""

from typing import cast

import torch
import torch.nn.functional as F
from timm.layers.patch_embed import PatchEmbed
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from fastshap_lab.components import Count, Share
from fastshap_lab.errors import UserError
from fastshap_lab.models.classifier import Classifier
from fastshap_lab.models.tokens import TokenNetwork, embed, is_token_network, token_grid, transform, with_positions


class MaskedAutoencoder(nn.Module):
    """An encoder that sees a few patches of an image, and a small decoder that predicts the pixels of the others.

    ``draw`` returns a random order of the patches of each image, (B, P); the first ``num_visible`` of them are visible.

    Reference: He et al., Masked autoencoders are scalable vision learners, CVPR 2022, arXiv:2111.06377, section 3.
    Differs from the paper: the encoder's positions are the classifier's, which are learned.

    Args:
        encoder: Vision transformer that will become the classifier; it needs no head.
        mask_ratio: Share of the patches that are hidden, in (0, 1); every image has the same number.
        decoder_width: Width of the decoder's tokens, a multiple of 4. The default is half of an encoder width of 192,
            as the paper's decoder is half as wide as ViT-L.
        decoder_depth: Number of blocks of the decoder.
        decoder_heads: Number of attention heads of each of these blocks.

    Raises:
        UserError: The encoder is no plain vision transformer, the ratio shows or hides no patch, or the decoder's width
            is no multiple of 4 and of its number of heads.
    """

    positions: Tensor

    def __init__(
        self,
        encoder: Classifier,
        mask_ratio: Share = 0.75,
        decoder_width: Count = 96,
        decoder_depth: Count = 4,
        decoder_heads: Count = 3,
    ) -> None:
        super().__init__()
        network = encoder.network
        plain = is_token_network(network) and isinstance(network.patch_embed, PatchEmbed)
        if not plain or getattr(network, "rope", None) is not None:
            raise UserError(
                f"classifier.pretrain.name=mae: {type(network).__name__} is no plain vision transformer (one token per "
                "patch, absolute positions); choose such a classifier, or set classifier.pretrain=null"
            )
        self.encoder = encoder
        grid = token_grid(self.network)
        self.num_patches = grid[0] * grid[1]
        self.num_visible = round(self.num_patches * (1 - mask_ratio))
        if not 0 < self.num_visible < self.num_patches:
            raise UserError(
                f"params.mask_ratio={mask_ratio}: shows {self.num_visible} of {self.num_patches} patches; must show at "
                "least one and hide at least one"
            )
        if decoder_width % decoder_heads or decoder_width % 4:
            raise UserError(
                f"params.decoder_width={decoder_width}: must be a multiple of 4 and of decoder_heads={decoder_heads}"
            )
        height, width = self.patch_size = self.network.patch_embed.patch_size
        self.enter = nn.Linear(self.network.embed_dim, decoder_width)
        self.mask_token = nn.Parameter(0.02 * torch.randn(1, 1, decoder_width))
        self.register_buffer("positions", build_sincos2d_pos_embed(list(grid), decoder_width), persistent=False)
        self.blocks = nn.Sequential(*(Block(decoder_width, decoder_heads, qkv_bias=True) for _ in range(decoder_depth)))
        self.leave = nn.Sequential(nn.LayerNorm(decoder_width), nn.Linear(decoder_width, 3 * height * width))

    @property
    def network(self) -> TokenNetwork:
        """The vision transformer."""
        return cast(TokenNetwork, self.encoder.network)

    def draw(self, number: int, generator: torch.Generator) -> Tensor:
        """Return a random order of the patches (B, P) for each image, on the generator's device.

        Args:
            number: Number of images B.
            generator: Generator for drawing orders.
        """
        return torch.rand(number, self.num_patches, generator=generator, device=generator.device).argsort(dim=1)

    def patchify(self, pixels: Tensor) -> Tensor:
        """Return the pixels of each patch (B, P, D) of images (B, 3, H, W); patches are listed row by row."""
        return F.unfold(pixels, self.patch_size, stride=self.patch_size).transpose(1, 2)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """Return the images (B, 3, H, W) that patches (B, P, D) make up; the inverse of ``patchify``."""
        return F.fold(patches.transpose(1, 2), self.encoder.image_size, self.patch_size, stride=self.patch_size)

    def encode(self, image: Tensor, order: Tensor) -> Tensor:
        """Return the features (B, prefix tokens + visible patches, D) of the visible patches.

        Args:
            image: Images (B, 3, H, W) in [0, 1].
            order: Order of the patches (B, P); the first ones are visible.
        """
        tokens, _ = with_positions(self.network, embed(self.network, self.encoder.normalize(image)))
        prefix, patches = tokens.tensor_split([self.network.num_prefix_tokens], dim=1)
        return transform(self.network, torch.cat([prefix, _pick(patches, order[:, : self.num_visible])], dim=1))

    def forward(self, image: Tensor, order: Tensor) -> Tensor:
        """Return the predicted pixels of every patch (B, P, D), standardized within each patch."""
        prefix, visible = self.enter(self.encode(image, order)).tensor_split([self.network.num_prefix_tokens], dim=1)
        hidden = self.mask_token.expand(len(image), self.num_patches - self.num_visible, -1)
        patches = _pick(torch.cat([visible, hidden], dim=1), order.argsort(dim=1)) + self.positions
        return self.leave(self.blocks(torch.cat([prefix, patches], dim=1))[:, prefix.shape[1] :])

    def loss(self, image: Tensor, order: Tensor) -> Tensor:
        """Return the mean squared error (B,) of hidden, normalized patches. Predicting each patch's mean gives 1.

        Args:
            image: Images (B, 3, H, W) in [0, 1].
            order: Order of the patches (B, P); the first ones are visible.
        """
        target, _, _ = self._standardized(image)
        error = (self(image, order) - target).square().mean(dim=-1)
        return error.gather(1, order[:, self.num_visible :]).mean(dim=1)

    @torch.no_grad()
    def reconstruct(self, image: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Return images with hidden patches in the mean colour, and their reconstructions: (B, 3, H, W), in [0, 1].

        Reconstructed patches get the true mean and contrast, which the prediction does not know.

        Args:
            image: Images (B, 3, H, W) in [0, 1].
            order: Order of the patches (B, P); the first ones are visible.
        """
        target, mean, deviation = self._standardized(image)
        seen = torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, : self.num_visible], True).unsqueeze(-1)
        pixels, predicted = target * deviation + mean, self(image, order) * deviation + mean
        masked, completed = pixels * seen, torch.where(seen, pixels, predicted)
        masked, completed = (
            (self.unpatchify(part) * self.encoder.std + self.encoder.mean).clamp(0, 1) for part in (masked, completed)
        )
        return masked, completed

    def _standardized(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the standardized pixels of each patch (B, P, D), and the patch's mean and deviation (B, P, 1)."""
        patches = self.patchify(self.encoder.normalize(image))
        mean = patches.mean(dim=-1, keepdim=True)
        deviation = (patches.var(dim=-1, correction=0, keepdim=True) + 1e-6).sqrt()  # that of a flat patch would be 0
        return (patches - mean) / deviation, mean, deviation


def _pick(tokens: Tensor, index: Tensor) -> Tensor:
    """Return those of the tokens (B, T, D) that an index (B, N) names, (B, N, D)."""
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
