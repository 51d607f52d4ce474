"""Batches from images that are on the training device already."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from fastshap_lab.data.augment import Augment
from fastshap_lab.seeding import derive_seed

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class TensorImages:
    """A split of a data set as plain tensors.

    Attributes:
        images: uint8 (N, 3, H, W); grey images have three equal channels.
        labels: int64 (N,).
        masks: Where the object is, bool (N, H, W), if known.
        boxes: Left, top, right, bottom of the object in pixels, the last two exclusive, int64 (N, 4), if known.
    """

    images: Tensor
    labels: Tensor
    masks: Tensor | None = None
    boxes: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> "TensorImages":
        """Return the split on another device."""
        tensors = (self.images, self.labels, self.masks, self.boxes)
        return TensorImages(*(None if tensor is None else tensor.to(device) for tensor in tensors))


class TensorLoader:
    """Batches of a split: ``image`` (B, 3, H, W) in [0, 1], ``label`` (B,) and ``index`` (B,) within the split.

    The order follows from seed and epoch, the augmentation from seed, epoch, batch and rank, and nothing else, so that
    a resumed run sees what an undisturbed one would. All ranks give the same number of batches, as collective
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
        data: TensorImages,
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
    def sampler(self) -> "TensorLoader":
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
        batches = self._share().to(self.data.images.device).split(self.batch_size)
        for number in range(first, len(self)):
            index = batches[number]
            image = self.data.images[index].float() / 255
            if self.augment:
                seed = derive_seed(self.seed, "augment", self.epoch, number, self.rank)
                image = self.augment(image, torch.Generator().manual_seed(seed))
            self._next_batch = number + 1
            yield {"image": image, "label": self.data.labels[index], "index": index}

    def _share(self) -> Tensor:
        """Return the indices of this rank's images, in order; the first ones again where that evens out the ranks."""
        count = len(self.data)
        places = torch.arange(self.rank, ceil(count / self.world_size) * self.world_size, self.world_size) % count
        if not self.training:
            return places
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", self.epoch))
        return torch.randperm(count, generator=generator)[places]
