"""What trainings share: random draws that a resumed one repeats, and going through one from start to end."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from fastshap_lab.config import OptimConfig, TrainerConfig, TrainingConfig
from fastshap_lab.data.loader import ImageLoader
from fastshap_lab.errors import UserError
from fastshap_lab.files import is_intact, read_checkpoint
from fastshap_lab.models.foreign import is_foreign
from fastshap_lab.records import METRICS_FILE
from fastshap_lab.seeding import derive_seed
from fastshap_lab.training.callbacks import Checkpoints, EpochBar, FiniteLoss, History, Patience
from fastshap_lab.training.optim import build_optimizer
from fastshap_lab.training.trainer import build_trainer


class Training(LightningModule):
    """Base of the training stages: every random draw follows from (seed, epoch, batch, rank) alone.

    Args:
        network: What is trained.
        optim: Optimizer and schedule.
        seed: Of the run.
        monitor: Validation measure that chooses the best epoch, lower is better.
    """

    def __init__(self, network: nn.Module, optim: OptimConfig, seed: int, monitor: str) -> None:
        super().__init__()
        self.network, self.optim, self.seed, self.monitor = network, optim, seed, monitor
        self.sums: dict[str, tuple[Tensor, int]] = {}

    def step_generator(self, batch_idx: int) -> torch.Generator:
        """Return a generator on the training device for what a training step draws."""
        return torch.Generator(self.device).manual_seed(self._step_seed("step", batch_idx))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed what draws from PyTorch's global generators: dropout and its kin."""
        torch.manual_seed(self._step_seed("network", batch_idx))

    def _step_seed(self, purpose: str, batch_idx: int) -> int:
        return derive_seed(self.seed, purpose, self.current_epoch, batch_idx, self.global_rank)

    def log_epoch(self, values: dict[str, Any], batch_size: int) -> None:
        """Log means over an epoch.

        Those of the training are summed here and logged with the validation's: Lightning would lose what it had summed
        before a checkpoint inside the epoch.

        Args:
            values: Measures of the batch, by name.
            batch_size: Number of images in the batch.
        """
        if not self.trainer.training:
            self.log_dict(values, on_step=False, on_epoch=True, batch_size=batch_size, sync_dist=True)
            return
        for name, value in values.items():
            total, count = self.sums.get(name, (torch.zeros((), device=self.device), 0))
            self.sums[name] = total + value.detach() * batch_size, count + batch_size

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its schedule over the whole training."""
        steps, mixed = int(self.trainer.estimated_stepping_batches), "mixed" in str(self.trainer.precision)
        return build_optimizer(self.network, self.optim, steps, self.monitor, mixed)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Give what an epoch has summed so far."""
        checkpoint["sums"] = self.sums

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back."""
        self.sums = checkpoint["sums"]

    def on_validation_epoch_end(self) -> None:
        """Log the training's means, and let a plateau schedule see the epoch.

        Lightning would step it after the checkpoint, and a resume miss it.
        """
        self.log_dict({name: total / count for name, (total, count) in self.sums.items()}, sync_dist=True)
        self.sums = {}
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(self.trainer.callback_metrics[self.monitor])

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step the other schedules, where Lightning does."""
        if not isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step()


@dataclass
class Loaders:
    """Batches of a training.

    Attributes:
        train: To learn from, on the device of the training.
        val: To choose the best epoch by.
    """

    train: ImageLoader
    val: ImageLoader


def fit(
    module: Training,
    loaders: Loaders,
    settings: TrainingConfig,
    folder: Path,
    trainer: TrainerConfig,
    *,
    title: str,
    key: str | None = None,
    tracker: Any = None,
    quiet: bool = False,
) -> None:
    """Train, going on from the last checkpoint if there is one, and leave the best epoch's weights in the module.

    Args:
        module: The training.
        loaders: Its batches.
        settings: How long, and with which optimizer.
        folder: Where checkpoints and curves are kept.
        trainer: The hardware, and the number format.
        title: Of the training, for its bar and for those who interrupt it.
        key: Of the settings in the configuration, for errors; by default the title.
        tracker: A W&B run for the curves, if one is open.
        quiet: Show no bar, for a training that is a step of longer work.

    Raises:
        UserError: The loss stopped being finite.
        Interrupted: A signal came; the last checkpoint holds everything up to then.
    """
    if not is_foreign(module.network):
        module.to(memory_format=torch.channels_last)  # convolutions are faster so, on CPUs and GPUs
    key = key or title
    checkpoints = Checkpoints(folder / "checkpoints", module.monitor, title)
    if not is_intact(checkpoints.last):  # which alone says what the best one is of
        for path in (checkpoints.last, checkpoints.best):
            path.unlink(missing_ok=True)
    callbacks: list[Callback] = [FiniteLoss(key), History(folder / METRICS_FILE)]
    callbacks += [] if quiet else [EpochBar(title, module.monitor)]
    callbacks.append(checkpoints)
    if settings.patience is not None:
        callbacks.append(Patience(module.monitor, patience=settings.patience))
    lightning = build_trainer(
        trainer,
        max_epochs=settings.epochs,
        callbacks=callbacks,
        gradient_clip_val=settings.optim.clip_norm,
        logger=WandbLogger(experiment=tracker) if tracker else False,
    )
    compiled = lightning.strategy.root_device.type == "cuda"  # on CPUs it takes longer than it saves
    if compiled:
        module.network.forward = torch.compile(module.network.forward)
    last = checkpoints.last if checkpoints.last.is_file() else None
    try:
        lightning.fit(module, loaders.train, loaders.val, ckpt_path=last, weights_only=True)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    if compiled:
        del module.network.forward
    checkpoints.end_if_asked(lightning)
    if not checkpoints.best.is_file():
        raise UserError(f"{key}: {module.monitor} was never a finite number; lower {key}.optim.lr")
    if tracker:
        tracker.summary[module.monitor] = checkpoints.best_value  # the exported weights', and what a sweep compares
    module.load_state_dict(read_checkpoint(checkpoints.best)["state_dict"])
    module.to(memory_format=torch.contiguous_format).eval()  # as a loaded model is, which must agree to the bit
