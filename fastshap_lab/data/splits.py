"""What a split of a data set holds: images in memory, or images that are decoded when they are needed."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
import torch
from torch import Tensor

NO_LABEL = -100  # which cross-entropy leaves out
VOID = 255  # pixels that may or may not be the object's
MAX_IN_STATISTICS = 50_000  # images; the means of so many are off by a thousandth at most


class ImageSplit(ABC):
    """Images with labels, by index.

    Attributes:
        labels: int64 (N,), or float32 (N, K) where the task is not ``multiclass``, on the device where images are
            wanted; ``NO_LABEL`` where an image has none.
        image_size: Height and width.
        region: Returns, by index, where an image's object is, uint8 (H, W): 1 there, 0 elsewhere, ``VOID`` where it
            cannot be told; None if that is not known.
    """

    labels: Tensor
    image_size: tuple[int, int]
    region: Callable[[int], np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Where images and labels are handed out."""
        return self.labels.device

    @abstractmethod
    def to(self, device: torch.device) -> "ImageSplit":
        """Return the split on another device."""

    @abstractmethod
    def blocks(self, indices: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield for each tensor of indices (B,), in turn, the images: uint8 (B, 3, H, W), on the device."""

    def images_at(self, indices: Tensor) -> Tensor:
        """Return some images, uint8 (B, 3, H, W), on the device."""
        [images] = self.blocks([indices])
        return images

    @property
    def has_regions(self) -> bool:
        """Whether it is known where objects are."""
        return self.region is not None

    def regions_at(self, indices: Tensor) -> Tensor | None:
        """Return where the objects of some images are, uint8 (B, H, W), on the device; None if that is not known.

        Raises:
            UserError: An annotation cannot be read.
        """
        if self.region is None:
            return None
        regions = torch.empty(len(indices), *self.image_size, dtype=torch.uint8)
        for place, index in enumerate(indices.tolist()):
            regions[place] = torch.from_numpy(self.region(index))
        return regions.to(self.device)

    def pixel_statistics(self) -> tuple[list[float], list[float]]:
        """Return mean and standard deviation of each channel, in [0, 1].

        Of all images, or of the first 50,000: training images come shuffled, so that these are a fair sample.
        """
        indices = torch.arange(min(len(self), MAX_IN_STATISTICS)).split(256)
        counts = torch.zeros(3, 256, dtype=torch.float64)
        for images in self.blocks(indices):
            counts += torch.stack(
                [torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)]
            ).cpu()
        levels = torch.arange(256, dtype=torch.float64) / 255
        shares = counts / counts.sum(dim=1, keepdim=True)
        mean = shares @ levels
        variance = shares @ levels.square() - mean.square()
        return mean.tolist(), variance.clamp_min(1e-6).sqrt().tolist()  # a constant channel must not divide by zero


@dataclass(frozen=True)
class TensorImages(ImageSplit):
    """A split as plain tensors, which live on the device as a whole.

    Attributes:
        images: uint8 (N, 3, H, W); grey images have three equal channels.
        labels: As in ``ImageSplit``.
        region: As in ``ImageSplit``.
    """

    images: Tensor
    labels: Tensor
    region: Callable[[int], np.ndarray] | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width."""
        return tuple(self.images.shape[2:])

    def to(self, device: torch.device) -> "TensorImages":
        """Return the split on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def blocks(self, indices: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield copies of rows."""
        for part in indices:
            yield self.images[part.to(self.device, non_blocking=True)]


@dataclass(frozen=True)
class StreamedImages(ImageSplit):
    """A split whose images are decoded by threads while earlier ones are in use; ``ahead + 1`` blocks are in memory.

    Threads, since Pillow decodes and resizes outside of Python's lock: nothing is pickled, copied or forked. Their
    number changes no image.

    Attributes:
        decode: Returns an image by its index: uint8 (3, H, W); called by several threads at once.
        labels: As in ``ImageSplit``.
        image_size: Height and width.
        workers: Number of threads.
        ahead: Blocks that are decoded beyond the one in use.
        region: As in ``ImageSplit``.
    """

    decode: Callable[[int], np.ndarray]
    labels: Tensor
    image_size: tuple[int, int]
    workers: int
    ahead: int = 2
    region: Callable[[int], np.ndarray] | None = None

    def to(self, device: torch.device) -> "StreamedImages":
        """Return the split on another device."""
        return replace(self, labels=self.labels.to(device))

    def blocks(self, indices: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield blocks in order, however the threads are scheduled.

        Raises:
            UserError: An image cannot be read; raised where its block would have come.
        """
        threads, begun = ThreadPoolExecutor(self.workers), deque[tuple[np.ndarray, list[Future[None]]]]()
        try:
            for part in indices:
                begun.append(self._begin(threads, part.tolist()))
                if len(begun) > self.ahead:
                    yield self._finished(*begun.popleft())
            while begun:
                yield self._finished(*begun.popleft())
        finally:  # also where the caller wants no more
            for _, shares in begun:
                for share in shares:
                    share.cancel()
            threads.shutdown()

    def _begin(self, threads: ThreadPoolExecutor, part: list[int]) -> tuple[np.ndarray, list[Future[None]]]:
        """Let every thread decode its share of a block; return the block and what to wait for."""
        block = np.empty((len(part), 3, *self.image_size), np.uint8)

        def decode(places: range) -> None:
            for place in places:
                block[place] = self.decode(part[place])

        share = max(1, ceil(len(part) / self.workers))
        places = range(len(part))
        return block, [threads.submit(decode, places[first : first + share]) for first in places[::share]]

    def _finished(self, block: np.ndarray, shares: list[Future[None]]) -> Tensor:
        for share in shares:
            share.result()
        return torch.from_numpy(block).to(self.device)
