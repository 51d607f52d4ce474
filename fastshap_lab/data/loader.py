"""Batches for training and evaluation, the same whether the images are in memory or decoded on the way."""

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

    The order follows from seed and epoch, the augmentation from seed, epoch, batch and rank, and nothing else, so that
    a resumed run sees what an uninterrupted one would. All ranks give the same number of batches, as collective
    operations want: in training the last incomplete batch is left out (unless it is the only one); in evaluation
    nothing is, and if the images do not share out evenly, fewer of them than there are ranks come twice.

    Args:
        data: The split, on the device where the batches are wanted.
        batch_size: Images per batch and rank.
        training: Shuffle, augment, and leave out the last incomplete batch.
        augment: Applied when training.
        seed: Of order and augmentation.
        rank: Which share of the images to give.
        world_size: Number of shares.
    """

    batch_sampler = None  # Lightning asks for it where it finds a sampler

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
        """Itself: where Lightning looks for ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order and augmentation come next."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """Return where the epoch stands, for a checkpoint; Lightning calls it."""
        return {"batch": self._next_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration begin where a checkpoint's ended."""
        self._first_batch = self._next_batch = state["batch"] % len(self)  # a finished epoch: at the next one's start

    def __len__(self) -> int:
        share = ceil(len(self.data) / self.world_size)
        return max(1, share // self.batch_size) if self.training else ceil(share / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        # A generator: nothing is read before the first batch, and by then Lightning has called set_epoch.
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
        """Return the indices of this rank's images, in order; the first ones again where that evens out the ranks."""
        count = len(self.data)
        places = torch.arange(self.rank, ceil(count / self.world_size) * self.world_size, self.world_size) % count
        if not self.training:
            return places
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", self.epoch))
        return torch.randperm(count, generator=generator)[places]
