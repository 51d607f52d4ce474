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
    """Return groups of masks, merged while they are closer than a threshold, in order of their first members.

    Args:
        masks: None of them all zero.
        threshold: On the distance, one minus the cosine.
        linkage: What the distance of two groups is: that of their ``complete``ly, on ``average`` or ``single`` closest
            members.
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
    """Return planes of features as masks in [0, 1] at image size, but for constant ones."""
    planes = planes[planes.amax(dim=(1, 2)) > planes.amin(dim=(1, 2))]
    return normalize_map(upsample(planes, image_size)) if len(planes) else planes.new_zeros(0, *image_size)


class ViTCX(PerturbationMethod):
    """Weighted mean of masks made of a block's features, by how much of the answer each causes.

    The score of a mask is the answer to the image seen through it with noise for the rest, plus what the same noise
    takes from the answer to the whole image. Maps have a large constant part.

    Reference: Xie et al., ViT-CX: causal explanation of vision transformers, IJCAI 2023, arXiv:2211.03064, section 3.
    The linkage is that of the authors' code; so are ``features=norm1`` with ``merge=sum_minmax``.

    Args:
        model: Is or holds a vision transformer of timm or a Swin transformer. Of the latter the last block of the stage
            before the last is read, of others the last block.
        features: ``attn_out``: what attention adds to the tokens; ``norm1``: the block's first normalization.
        masks: Made of ``clusters`` of features; or, to see what that contributes, of single ``features`` or at
            ``random`` as in RISE.
        threshold: Distance at which masks are no longer merged; by default 0.1, of a Swin transformer 0.05.
        linkage: ``complete``, ``average`` or ``single``.
        merge: ``mean`` of a cluster's masks, or ``sum_minmax``: their sum stretched to [0, 1].
        noise: Standard deviation, in the model's normalized space.
        score: ``debiased``, or ``plain``: the answer to the image seen through the mask, no noise.
        coverage: Divide by what masks let through of each pixel.
        num_masks: Of random masks.
        seed: Of noise and random masks, the same for every image.
        baseline: Colour of what is hidden, in units of the input; by default the model's mean colour.
        link: See ``PerturbationMethod``.
        bf16: See ``PerturbationMethod``.
        max_batch: Copies per pass.
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
            asked = f"noise={noise}, threshold={self.threshold}, num_masks={num_masks}"
            raise UserError(f"ViTCX: {asked}: not negative, not negative, and at least 1 wanted")
        self.noise, self.coverage, self.num_masks, self.seed = noise, coverage, num_masks, seed

    @classmethod
    def supports(cls, model: nn.Module) -> str | None:
        """Return why the method does not apply to a model, or None if it does."""
        return None if last_block(model, stage=-2) else "the model holds no vision or Swin transformer with such blocks"

    def image_masks(self, image: Float[Tensor, "C H W"]) -> Float[Tensor, "M H W"]:
        """Return the masks of an image, in [0, 1]."""
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
        return torch.where(seen > 0, total * number / torch.where(seen > 0, seen, 1), 0)

    def _masks(self, image: Tensor) -> tuple[int, Callable[[int, int], Tensor]]:
        """Return the number of an image's masks, and what gives those (M, H, W) from one to another."""
        if self.masks == "random":  # thousands, not all of which need be there at once
            size = image.shape[1], image.shape[2]
            drawn = RandomMasks(self.num_masks, size, cells=7, keep=0.5, seed=self.seed)
            return self.num_masks, partial(drawn, image)
        masks = self._masks_of_features(image)
        return len(masks), lambda start, stop: masks[start:stop]

    def _masks_of_features(self, image: Tensor) -> Tensor:
        size = image.shape[1], image.shape[2]
        block = last_block(self.model, stage=-2)
        assert block is not None  # or the constructor had refused
        # What enters the residual sum has its places in order, other than what leaves a Swin's windowed attention.
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
