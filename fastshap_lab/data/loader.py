"""Batches for training and evaluation, from images in memory or images that are decoded on the way."""

from collections.abc import Iterator
from math import ceil

import torch
from torch import Tensor

from fastshap_lab.data.augment import Augment
from fastshap_lab.data.splits import ImageSplit
from fastshap_lab.seeding import derive_seed

Batch = dict[str, Tensor]


class ImageLoader:
    """Batches of a split: ``image`` (B, 3, H, W) in [0, 1], ``label`` (B,) or (B, K), ``index`` (B,) in the split.

    The order depends on seed and epoch only, the augmentation on seed, epoch, batch and rank only, so that a resumed
    run gets the same batches as an uninterrupted one. All ranks get the same number of batches, as collective
    operations need. In training, an incomplete last batch is left out, unless it is the only one. In evaluation no
    image is left out; if the number of images is no multiple of ``world_size``, the first ones are repeated.

    Args:
        data: The split, on the device that the batches are needed on.
        batch_size: Number of images in a batch of one rank.
        training: Whether to shuffle, to augment, and to leave out an incomplete last batch.
        augment: Augmentation of the images if ``training``.
        seed: Seed for order and augmentation.
        rank: Rank of this process, from 0; each rank gets another part of the images.
        world_size: Number of processes.
    """

    batch_sampler = None  # Lightning reads it if there is a sampler

    def __init__(
        self,
        data: ImageSplit,
        batch_size: int,
        *,
        training: bool = False,
        augment: Augment | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.data, self.batch_size, self.training = data, batch_size, training
        self.augment = augment if training else None
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch = self._next_batch = self._first_batch = 0

    @property
    def sampler(self) -> "ImageLoader":
        """The loader itself, since Lightning calls ``set_epoch`` of the sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that determines order and augmentation of the next iteration."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """Return the number of batches of this epoch that are done; Lightning stores it in checkpoints."""
        return {"batch": self._next_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration start at the batch after the last one of a checkpoint."""
        self._first_batch = self._next_batch = state["batch"] % len(self)  # after a finished epoch, start at 0

    def __len__(self) -> int:
        share = ceil(len(self.data) / self.world_size)
        return max(1, share // self.batch_size) if self.training else ceil(share / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        # This is a generator, so nothing is read before the first batch, when Lightning has called set_epoch.
        first, self._first_batch = self._first_batch, 0
        batches = self._share().split(self.batch_size)[first : len(self)]
        for number, (index, images) in enumerate(zip(batches, self.data.blocks(batches), strict=True), first):
            image = images.float() / 255
            if self.augment:
                seed = derive_seed(self.seed, "augment", self.epoch, number, self.rank)
                image = self.augment(image, torch.Generator().manual_seed(seed))
            self._next_batch = number + 1
            index = index.to(self.data.device, non_blocking=True)
            yield {"image": image, "label": self.data.labels[index], "index": index}

    def _share(self) -> Tensor:
        """Return the indices of this rank's images in order; the first images fill up the shares of the last ranks."""
        count = len(self.data)
        places = torch.arange(self.rank, ceil(count / self.world_size) * self.world_size, self.world_size) % count
        if not self.training:
            return places
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", self.epoch))
        return torch.randperm(count, generator=generator)[places]
