"""What training stages share: Lightning's trainer, checkpoints, curves, progress, and draws that a resume repeats."""

import logging
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import wandb
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from fastshap_lab.config import ComponentConfig, Config, OptimConfig, TrainingConfig
from fastshap_lab.data.augment import Augment
from fastshap_lab.data.base import Split
from fastshap_lab.errors import UserError
from fastshap_lab.files import replacing
from fastshap_lab.seeding import derive_seed
from fastshap_lab.stages.optim import build_optimizer
from fastshap_lab.stages.runs import Run, component

METRICS_FILE = "metrics.csv"


class Training(LightningModule):
    """Base of the training stages: every random draw follows from (seed, epoch, batch, rank) alone.

    Args:
        network: What is trained; ``network_state`` of a checkpoint is its weights.
        optim: Optimizer and schedule.
        seed: Of the run.
        monitor: Validation measure that chooses the best epoch, lower is better.
    """

    def __init__(self, network: nn.Module, optim: OptimConfig, seed: int, monitor: str) -> None:
        super().__init__()
        self.network, self.optim, self.seed, self.monitor = network, optim, seed, monitor

    def step_seed(self, batch_idx: int) -> int:
        """Return the seed of a training step."""
        return derive_seed(self.seed, self.current_epoch, batch_idx, self.global_rank)

    def step_generator(self, batch_idx: int) -> torch.Generator:
        """Return a generator on the training device for what a training step draws."""
        return torch.Generator(self.device).manual_seed(self.step_seed(batch_idx))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed what draws from PyTorch's global generators: dropout and its kin."""
        torch.manual_seed(self.step_seed(batch_idx))

    def log_epoch(self, values: dict[str, Any], batch_size: int) -> None:
        """Log means over the epoch."""
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=batch_size, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Return the optimizer and its schedule over the whole training."""
        return build_optimizer(self.network, self.optim, int(self.trainer.estimated_stepping_batches), self.monitor)


def fit(module: Training, run: Run, training: TrainingConfig) -> None:
    """Train, going on from the last checkpoint if there is one, and leave the best epoch's weights in the module.

    Raises:
        UserError: The loss stopped being finite.
    """
    folder, checkpoints = run.folder, run.folder / "checkpoints"
    augment = Augment(**component(training.augment))
    run.data.configure(batch_size=training.batch_size, augment=augment, seed=run.config.seed)
    last, best = checkpoints / "last.ckpt", checkpoints / "best.ckpt"
    callbacks: list[Callback] = [
        FiniteLoss(),
        History(folder / METRICS_FILE),
        EpochBar(folder.parent.name, module.monitor),
        ModelCheckpoint(checkpoints, "best", module.monitor, save_weights_only=True, enable_version_counter=False),
        ModelCheckpoint(checkpoints, "last", enable_version_counter=False),
    ]
    if training.patience is not None:
        callbacks.insert(0, Patience(module.monitor, patience=training.patience))
    trainer = quiet_trainer(
        run.config,
        folder,
        max_epochs=training.epochs,
        callbacks=callbacks,
        gradient_clip_val=training.optim.clip_norm,
        plugins=[WholeCheckpoints()],
    )
    trainer.fit(module, datamodule=run.data, ckpt_path=last if last.is_file() else None, weights_only=True)
    if not best.is_file():
        raise UserError(f"{module.monitor}: no epoch of {folder} had a finite value; lower the learning rate")
    module.load_state_dict(torch.load(best, map_location="cpu", weights_only=True)["state_dict"])
    module.eval()


def quiet_trainer(config: Config, folder: Path, **arguments: Any) -> Trainer:
    """Return Lightning's trainer on the configured hardware, without the notices it prints by default."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",  # batches come from a tensor on the device
        ".*GPU available but not used.*",
        ".*exists and is not empty.*",  # a resumed run's folder
        ".*in eval mode.*",  # a frozen game is meant to be
        ".*isinstance.treespec, LeafSpec.*",  # Lightning 2.6 on PyTorch 2.9 and later
        ".*lr_scheduler.step.*before.*optimizer.step.*",
    ):
        warnings.filterwarnings("ignore", message)
    return Trainer(
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        num_nodes=config.trainer.num_nodes,
        strategy=config.trainer.strategy,
        precision=config.trainer.precision,
        default_root_dir=folder,
        logger=build_logger(config, folder),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the loaders slice by rank themselves
        **arguments,
    )


def build_logger(config: Config, folder: Path) -> Logger | bool:
    """Return the Weights & Biases run of a run folder, or False where only ``metrics.csv`` is wanted."""
    if config.logger.name != "wandb":
        return False
    return WandbLogger(
        project=config.logger.project,
        name=f"{folder.parent.name}/{folder.name}",
        id=folder.name,
        resume="allow",
        save_dir=folder,
        offline=config.logger.mode == "offline",
    )


class WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints appear under their name only when complete and on disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write beside, fsync, rename."""
        with replacing(path) as temporary:
            torch.save(checkpoint, temporary)


class Patience(EarlyStopping):
    """Early stopping that also holds when its checkpoint is resumed after the stop."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once where an earlier run had already stopped."""
        trainer.should_stop = self.wait_count >= self.patience


class FiniteLoss(Callback):
    """Stop a training whose loss is not a finite number, before a checkpoint of it is written.

    The first bad step is kept on the device and read once per epoch there, so that a GPU is never waited for in a step;
    on a CPU it is read at once.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start without a bad step."""
        self._bad = torch.full((), math.inf, device=pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Remember the first step whose loss was not finite."""
        step = torch.full_like(self._bad, trainer.global_step)
        self._bad = torch.where(outputs["loss"].detach().isfinite(), self._bad, torch.minimum(self._bad, step))
        if self._bad.device.type == "cpu":
            self._check(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before validation and checkpoints."""
        self._check(trainer)

    def _check(self, trainer: Trainer) -> None:
        if self._bad.isfinite():
            epoch = trainer.current_epoch
            raise UserError(
                f"training stopped: the loss at step {int(self._bad)} (epoch {epoch}) is not a finite number; the last "
                f"good checkpoint is kept in {trainer.default_root_dir}/checkpoints; lower the learning rate (optim.lr) "
                "or clip gradients (optim.clip_norm)"
            )


class History(Callback):
    """One row of measures per epoch, in ``metrics.csv``; a resumed run keeps the rows it had."""

    def __init__(self, path: Path) -> None:
        self.path, self.rows = path, []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the epoch. Comes before checkpoints are saved, after training and validation means are known."""
        values = {name: value.item() for name, value in trainer.callback_metrics.items()}
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.rows.append({"epoch": trainer.current_epoch, "lr": rate, **dict(sorted(values.items()))})
        if trainer.is_global_zero:
            with replacing(self.path) as temporary:
                pd.DataFrame(self.rows).to_csv(temporary, index=False)

    def state_dict(self) -> dict[str, Any]:
        """Go with the checkpoint."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Come back with it."""
        self.rows = state_dict["rows"]


class EpochBar(Callback):
    """A progress bar over the whole training, on a terminal."""

    def __init__(self, stage: str, monitor: str) -> None:
        self.stage, self.monitor = stage, monitor
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, transient=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start at the epoch a resumed run is at."""
        self.bar.start()
        epochs = trainer.max_epochs or 0
        self.task = self.bar.add_task(
            self.stage, total=epochs * trainer.num_training_batches, completed=trainer.global_step, text=""
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance."""
        self.bar.advance(self.task)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how good it is."""
        value = trainer.callback_metrics.get(self.monitor, torch.tensor(math.nan))
        text = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  {self.monitor} {value:.4f}"
        self.bar.update(self.task, text=text)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave no trace."""
        self.bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no trace."""
        self.bar.stop()


def network_description(run: Run, config: ComponentConfig, pixels: bool = False) -> dict[str, Any]:
    """Return what builds a network for the run's images: its table entry, and what follows from the data.

    Args:
        run: Gives the data.
        config: Table entry and arguments.
        pixels: Normalize by the training images' statistics; else by a placeholder, where reading them is not wanted.
    """
    mean, std = pixel_statistics(run.data.dataset("train").images) if pixels else ([0.5] * 3, [0.5] * 3)
    return {
        "name": config.name,
        "params": component(config)["params"],
        "image_size": list(run.data.image_size),
        "num_classes": run.data.num_classes,
        "mean": mean,
        "std": std,
    }


def pixel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel of uint8 images (N, 3, H, W), in [0, 1]."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    counts = (
        torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)]).cpu().double()
    )
    shares = counts / counts.sum(dim=1, keepdim=True)
    mean = shares @ levels
    variance = shares @ levels.square() - mean.square()
    return mean.tolist(), variance.clamp_min(1e-6).sqrt().tolist()  # a constant channel must not divide by zero


def device_of(run: Run) -> torch.device:
    """Return where a run's data are: the device it trains on, the CPU before."""
    return run.data.dataset("train").images.device


def batches(run: Run, split: Split, images_per_pass: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images in [0, 1] and labels, in order, so many that ``images_per_pass`` of each fill ``trainer.max_batch``."""
    data = run.data.dataset(split)
    size = max(1, run.config.trainer.max_batch // images_per_pass)
    for images, labels in zip(data.images.split(size), data.labels.split(size), strict=True):
        yield images.float() / 255, labels


def log_results(run: Run, tables: dict[str, pd.DataFrame], figures: dict[str, Path]) -> None:
    """Send a stage's tables and figures to the logger, if one is chosen."""
    logger = build_logger(run.config, run.folder)
    if logger:
        logger.experiment.config.update(run.summary())
        logger.experiment.log({name: wandb.Table(dataframe=table) for name, table in tables.items()})
        logger.experiment.log({name: wandb.Image(str(path)) for name, path in figures.items()})
        logger.experiment.finish()
