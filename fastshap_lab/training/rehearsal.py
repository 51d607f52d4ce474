"""A few steps of a training, timed: what all of it will take."""

import time
import warnings
from collections.abc import Iterator

import torch

from fastshap_lab.config import TrainerConfig, TrainingConfig
from fastshap_lab.data.loader import Batch, ImageLoader
from fastshap_lab.models.foreign import is_foreign
from fastshap_lab.training.trainer import build_trainer
from fastshap_lab.training.training import Training

_PROBED = 8  # images of the first two steps, which say whether there is time for whole batches
_LONG = 8.0  # seconds: where a step seems to take longer, which small batches exaggerate, it is not tried
_SECONDS, _STEPS, _MIN_STEPS = 0.7, 10, 3  # of the steps with whole batches


class _Enough(Exception):
    """The steps are timed."""


class _Timed:
    """Batches of a loader until the time is over; what lies between two of them is a step.

    Attributes:
        seconds: Of a step with a whole batch.
    """

    batch_sampler = sampler = None

    def __init__(self, loader: ImageLoader) -> None:
        self.loader, self.seconds = loader, 0.0

    def __len__(self) -> int:
        return 1_000_000  # steps, more than there is time for

    def __iter__(self) -> Iterator[Batch]:
        whole = len(next(iter(self.loader))["image"])
        probe = ImageLoader(self.loader.data, min(_PROBED, whole), training=True, augment=self.loader.augment)
        for _ in range(2):  # the first also builds what later ones use again
            start = _now()
            yield next(iter(probe))
            self.seconds = (_now() - start) * whole / min(_PROBED, whole)
        end, steps = _now() + _SECONDS, list[float]()
        while self.seconds < _LONG and len(steps) < _STEPS and (_now() < end or len(steps) < _MIN_STEPS):
            start = _now()
            yield next(iter(self.loader))
            steps.append(_now() - start)
        if steps:
            self.seconds = min(steps)  # what else the machine does only adds to it
        raise _Enough


def seconds_of_step(module: Training, loader: ImageLoader, settings: TrainingConfig, trainer: TrainerConfig) -> float:
    """Return how long a step of a training takes, from a second's worth of them.

    Args:
        module: The training, which is of no use afterwards.
        loader: Batches of its size; the images may be random.
        settings: With which optimizer.
        trainer: The hardware, and the number format.
    """
    if not is_foreign(module.network):
        module.to(memory_format=torch.channels_last)
    timed = _Timed(loader)
    rehearsal = build_trainer(
        trainer,
        max_epochs=1,
        limit_val_batches=0,
        enable_checkpointing=False,
        gradient_clip_val=settings.optim.clip_norm,
    )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*no `val_dataloader`.*")
            rehearsal.fit(module, timed)
    except _Enough:
        return timed.seconds
    raise RuntimeError("the rehearsal ended early")


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
