"""ViT-CX: causal explanation of vision transformers."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor, nn

from fastshap_lab.attribution.base import Kind, colour_scale, one_of, restoring, upsample
from fastshap_lab.attribution.features import find_swin, forward_with_features, last_block
from fastshap_lab.attribution.perturbation_method import Classes, PerturbationMethod, faded
from fastshap_lab.attribution.rise import RandomMasks
from fastshap_lab.components import Count
from fastshap_lab.errors import UserError
from fastshap_lab.images import normalize_map

Features = Literal["attn_out", "norm1"]
Masks = Literal["clusters", "features", "random"]
Linkage = Literal["complete", "average", "single"]
Merge = Literal["mean", "sum_minmax"]
Score = Literal["debiased", "plain"]


def cluster(masks: Float[Tensor, "M H W"], threshold: float, linkage: Linkage = "complete") -> list[list[int]]:
    """Return groups of mask indices, merged while their distance is below a threshold, ordered by first members.

    Args:
        masks: Masks, none of which is zero everywhere.
        threshold: Threshold of the distance, which is one minus the cosine similarity.
        linkage: Distance between two groups: the largest (``complete``), mean (``average``) or smallest (``single``)
            distance between their members.

    Example:
        >>> cluster(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[2.0, 0.0]]]), threshold=0.1)
        [[0, 2], [1]]
    """
    if len(masks) < 2:
        return [[index] for index in range(len(masks))]
    products = (masks.flatten(1) @ masks.flatten(1).T).cpu().double()
    lengths = products.diagonal().sqrt()
    distances = (1 - products / lengths.outer(lengths)).clamp_min(0).fill_diagonal_(0)
    model = AgglomerativeClustering(
        n_clusters=None, metric="precomputed", linkage=linkage, distance_threshold=threshold
    )
    groups: dict[int, list[int]] = {}
    for index, label in enumerate(model.fit_predict(distances.numpy()).tolist()):
        groups.setdefault(label, []).append(index)
    return list(groups.values())


def plane_masks(planes: Float[Tensor, "D rows columns"], image_size: tuple[int, int]) -> Float[Tensor, "M H W"]:
    """Return feature maps as masks in [0, 1] at image size; constant feature maps are left out.

    Args:
        planes: Feature maps of one image.
        image_size: Height and width in pixels.

    Example:
        >>> plane_masks(torch.tensor([[[1.0, 3.0]], [[2.0, 2.0]]]), (1, 4)).tolist()
        [[[0.0, 0.25, 0.75, 1.0]]]
    """
    planes = planes[planes.amax(dim=(1, 2)) > planes.amin(dim=(1, 2))]
    return normalize_map(upsample(planes, image_size)) if len(planes) else planes.new_zeros(0, *image_size)


class ViTCX(PerturbationMethod):
    """ViT-CX: the sum of masks made of a block's features, each times its causal score, divided by the mean mask.

    The score of a mask is the output for the image seen through it, with noise in the hidden part, plus the drop that
    the same noise causes in the output for the whole image. With K masks, a map is K times the mean of the scores
    weighted by the masks at each pixel, so it has a large constant part.

    Reference: Xie et al., ViT-CX: causal explanation of vision transformers, IJCAI 2023, arXiv:2211.03064, section 3;
    equation 5 divides by the mean mask. The linkage is that of the authors' code, as are ``features=norm1`` and
    ``merge=sum_minmax``.

    Args:
        model: Model that is or contains a timm vision transformer or Swin transformer. The last block of a vision
            transformer is read, or the last block of a Swin transformer's last but one stage.
        features: ``attn_out``: the output of attention, before the residual connection adds it to the tokens;
            ``norm1``: the output of the block's first normalization.
        masks: ``clusters``: masks are clusters of features; for comparison, ``features``: each feature is a mask, or
            ``random``: masks are those of RISE.
        threshold: Distance from which masks are no longer merged, see ``cluster``; by default 0.1, or 0.05 for a Swin
            transformer.
        linkage: Distance between clusters, see ``cluster``: ``complete``, ``average`` or ``single``.
        merge: How the masks of a cluster become one: their ``mean``, or ``sum_minmax``, their sum stretched to [0, 1].
        noise: Standard deviation of the noise, in the model's normalized space.
        score: ``debiased``, the score above; or ``plain``, the output for the image seen through the mask, without
            noise.
        coverage: Whether to divide by the mean mask. Otherwise a map is the plain sum.
        num_masks: Number of masks if ``masks=random``.
        seed: Seed of the noise and the random masks, which are the same for every image.
        baseline: Colour of the hidden part, one number per channel in units of the input; by default the model's mean
            colour.
        link: Space of the output, see ``PerturbationMethod``.
        bf16: Run passes in bfloat16, see ``PerturbationMethod``.
        max_batch: Number of copies per pass.

    Raises:
        UserError: The method does not apply to the model, or an option is out of range.

    Example:
        >>> from timm.models import VisionTransformer
        >>> model = VisionTransformer(img_size=8, patch_size=4, num_classes=3, embed_dim=12, depth=2, num_heads=3)
        >>> ViTCX(model).attribute(torch.rand(1, 3, 8, 8), target=0).shape
        torch.Size([1, 8, 8])
    """

    kind: ClassVar[Kind] = "score"

    def __init__(
        self,
        model: nn.Module,
        features: Features = "attn_out",
        masks: Masks = "clusters",
        threshold: float | None = None,
        linkage: Linkage = "complete",
        merge: Merge = "mean",
        noise: float = 0.1,
        score: Score = "debiased",
        coverage: bool = True,
        num_masks: int = 5000,
        seed: int = 0,
        baseline: Sequence[float] | None = None,
        link: str | None = None,
        bf16: bool = False,
        max_batch: Count = 32,
    ) -> None:
        super().__init__(model, baseline, link, bf16, max_batch)
        self.features, self.masks = one_of("features", features, Features), one_of("masks", masks, Masks)
        self.linkage, self.merge = one_of("linkage", linkage, Linkage), one_of("merge", merge, Merge)
        self.score = one_of("score", score, Score)
        self.threshold = (0.1 if find_swin(model) is None else 0.05) if threshold is None else threshold
        if noise < 0 or self.threshold < 0 or num_masks < 1:
            given = f"noise={noise}, threshold={self.threshold}, num_masks={num_masks}"
            raise UserError(f"ViTCX: {given}: noise and threshold must not be negative, num_masks at least 1")
        self.noise, self.coverage, self.num_masks, self.seed = noise, coverage, num_masks, seed

    @classmethod
    def supports(cls, model: nn.Module) -> str | None:
        """Return why the method cannot be applied to a model, or None if it can."""
        if last_block(model, stage=-2) is not None:
            return None
        return "the model contains no vision or Swin transformer whose blocks have norm1 and a residual connection"

    def image_masks(self, image: Float[Tensor, "C H W"]) -> Float[Tensor, "M H W"]:
        """Return the M masks of an image, with values in [0, 1]."""
        with restoring(self.model), torch.no_grad():
            number, made = self._masks(image.detach().clone())
            return made(0, number)

    def _explain(self, image: Tensor, colour: Tensor, classes: Classes) -> Tensor:
        number, masks = self._masks(image)
        whole = self._values(image.unsqueeze(0), classes)
        generator = torch.Generator().manual_seed(self.seed)
        scale = self.noise * colour_scale(self.model, image.unsqueeze(0))
        total, seen = image.new_zeros(whole.shape[1], *image.shape[1:]), torch.zeros_like(image[0])
        for start in range(0, number, self.max_batch):
            part = masks(start, start + self.max_batch)
            copies = faded(image, part, colour)
            if self.score == "plain":
                scores = self._values(copies, classes)
            else:
                drawn = torch.stack([torch.randn(image.shape, generator=generator) for _ in part]).to(image)
                noise = (1 - part).unsqueeze(1) * scale * drawn
                scores = self._values(copies + noise, classes) + whole - self._values(image + noise, classes)
            total += torch.einsum("mk,mhw->khw", scores, part)
            seen += part.sum(dim=0)
        if not self.coverage:
            return total
        # The mean mask is seen / number (equation 5).
        return torch.where(seen > 0, total * number / torch.where(seen > 0, seen, 1), 0)

    def _masks(self, image: Tensor) -> tuple[int, Callable[[int, int], Tensor]]:
        """Return the number of an image's masks, and a function that returns the masks (M, H, W) of a range."""
        if self.masks == "random":  # There are thousands, so they are made only when they are needed.
            size = image.shape[1], image.shape[2]
            drawn = RandomMasks(self.num_masks, size, cells=7, keep=0.5, seed=self.seed)
            return self.num_masks, partial(drawn, image)
        masks = self._masks_of_features(image)
        return len(masks), lambda start, stop: masks[start:stop]

    def _masks_of_features(self, image: Tensor) -> Tensor:
        size = image.shape[1], image.shape[2]
        block = last_block(self.model, stage=-2)
        assert block is not None  # the constructor refuses models without one
        # The residual connection's input is in image order, unlike the output of a Swin's windowed attention.
        entering = self.features == "attn_out"
        _, found, to_feature_map = forward_with_features(
            self.model, [block.drop_path1 if entering else block.norm1], image.unsqueeze(0), entering
        )
        masks = plane_masks(to_feature_map(found)[0], size)
        if self.masks == "features":
            return masks
        groups = cluster(masks, self.threshold, self.linkage)
        means = [masks[members].mean(dim=0) for members in groups]
        together = torch.stack(means) if means else masks
        return together if self.merge == "mean" else normalize_map(together)
