"""What training stages share: Lightning's trainer, and random draws that a resumed run repeats."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from fastshap_lab.config import ComponentConfig, OptimConfig, TrainerConfig, TrainingConfig
from fastshap_lab.data.augment import Augment
from fastshap_lab.data.base import Split
from fastshap_lab.data.loader import ImageLoader
from fastshap_lab.data.splits import ImageSplit
from fastshap_lab.errors import UserError
from fastshap_lab.files import read_checkpoint
from fastshap_lab.models.tasks import described
from fastshap_lab.seeding import derive_seed
from fastshap_lab.stages.callbacks import Checkpoints, EpochBar, FiniteLoss, History, Patience, WholeCheckpoints
from fastshap_lab.stages.optim import build_optimizer
from fastshap_lab.stages.runs import METRICS_FILE, Run


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
        """Log means over the epoch.

        Those of the training are summed here and logged with the validation's: Lightning would lose what it summed
        before a checkpoint inside the epoch.
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


def fit(module: Training, run: Run, training: TrainingConfig, images: ImageSplit | None = None) -> None:
    """Train, going on from the last checkpoint if there is one, and leave the best epoch's weights in the module.

    Args:
        module: The training.
        run: Its folder holds checkpoints and curves.
        training: How long, and in which batches.
        images: To train on, as they are; the data's training images, augmented, where none are given.

    Raises:
        UserError: The loss stopped being finite.
        Interrupted: A signal came; the last checkpoint holds everything up to then.
    """
    module.to(memory_format=torch.channels_last)  # convolutions are faster so, on CPUs and GPUs
    augment = Augment(**asdict(training.augment))
    run.data.configure(batch_size=training.batch_size, augment=augment, seed=run.config.seed)
    loaders: dict[str, Any] = {"datamodule": run.data}
    if images is not None:
        given = ImageLoader(images, training.batch_size, training=True, seed=run.config.seed)
        loaders = {"train_dataloaders": given, "val_dataloaders": run.data.val_dataloader()}
    key = "classifier.pretrain" if run.stage == "pretrain" else run.stage  # of the configuration, for errors
    checkpoints = Checkpoints(run.folder / "checkpoints", module.monitor, run.stage)
    callbacks: list[Callback] = [
        FiniteLoss(key),
        History(run.folder / METRICS_FILE),
        EpochBar(run.stage, module.monitor),
        checkpoints,
    ]
    if training.patience is not None:
        callbacks.append(Patience(module.monitor, patience=training.patience))
    trainer = build_trainer(
        run.config.trainer,
        max_epochs=training.epochs,
        callbacks=callbacks,
        gradient_clip_val=training.optim.clip_norm,
        logger=WandbLogger(experiment=run.tracker) if run.tracker else False,
    )
    compiled = trainer.strategy.root_device.type == "cuda"  # on CPUs it takes longer than it saves
    if compiled:
        module.network.forward = torch.compile(module.network.forward)
    last = checkpoints.last if checkpoints.last.is_file() else None
    try:
        trainer.fit(module, **loaders, ckpt_path=last, weights_only=True)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt from None
    if compiled:
        del module.network.forward
    checkpoints.end_if_asked(trainer)
    if not checkpoints.best.is_file():
        raise UserError(f"{key}: {module.monitor} was never a finite number; lower {key}.optim.lr")
    if run.tracker:
        run.tracker.summary[module.monitor] = checkpoints.best_value  # the exported weights', and what a sweep compares
    module.load_state_dict(read_checkpoint(checkpoints.best)["state_dict"])
    module.to(memory_format=torch.contiguous_format).eval()  # as a loaded model is, which must agree to the bit


def build_trainer(config: TrainerConfig, logger: Logger | bool = False, **arguments: Any) -> Trainer:
    """Return Lightning's trainer on the configured hardware, without the notices it prints by default.

    Raises:
        UserError: Lightning refuses a setting, or several processes are asked for.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",  # batches come from a tensor on the device
        ".*GPU available but not used.*",
        ".*isinstance.treespec, LeafSpec.*",  # Lightning 2.6 on PyTorch 2.9 and later
        ".*lr_scheduler.step.*before.*optimizer.step.*",
    ):
        warnings.filterwarnings("ignore", message)
    try:
        trainer = Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.num_nodes,
            strategy=config.strategy,
            precision=config.precision,
            logger=logger,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,  # nothing is logged by steps, but fewer of them than this would be warned of
            use_distributed_sampler=False,  # the loaders slice by rank themselves
            plugins=[WholeCheckpoints()],
            **arguments,
        )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
        settings = ", ".join(f"{key}={value}" for key, value in asdict(config).items())
        raise UserError(f"trainer: {' '.join(str(error).split())} (from {settings})") from error
    if trainer.world_size > 1:
        raise UserError(
            f"trainer.devices={config.devices}, trainer.num_nodes={config.num_nodes}: a stage runs in one process "
            "so far, on one device"
        )
    return trainer


def network_description(
    run: Run,
    config: ComponentConfig,
    pixels: Mapping[str, Any] = MappingProxyType({"mean": [0.5] * 3, "std": [0.5] * 3}),
) -> dict[str, Any]:
    """Return what builds a network for the run's images: its table entry, and what follows from the data.

    Args:
        run: Gives the data.
        config: Table entry and arguments.
        pixels: Holds ``mean`` and ``std`` to normalize with, and perhaps ``task``: the classifier's own, which those
            that learn from it share. The default is for networks that are only built to see whether they can be.
    """
    return {
        "name": config.name,
        "params": dict(config.params),
        "image_size": list(run.data.image_size),
        "num_classes": run.data.num_classes,
        "mean": list(pixels["mean"]),
        "std": list(pixels["std"]),
        **({"task": pixels["task"]} if "task" in pixels else described(run.data.task)),
    }


def check_images(network: nn.Module, stage: str, answer: tuple[int, ...], *inputs: Tensor) -> None:
    """Raise a ``UserError`` where a network cannot take the data's images, or answers with something else than it must.

    On the meta device this costs nothing.

    Args:
        network: Takes the inputs.
        stage: Of the network, or its key in the configuration, for errors.
        answer: Shape of its answer.
        inputs: Images (B, 3, H, W), and what else it takes.
    """
    height, width = inputs[0].shape[-2:]
    try:
        with torch.no_grad():
            found = network.eval()(*inputs)
    except (RuntimeError, AssertionError, ValueError, TypeError, AttributeError, IndexError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{stage}: its network does not take images of {height}×{width}: {reason}") from error
    what = f"of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"of type {type(found).__name__}"
    if what != f"of shape {answer}":
        raise UserError(
            f"{stage}: its network's answer to {len(inputs[0])} images is {what}: must be a tensor of shape {answer}"
        )


def device_of(run: Run) -> torch.device:
    """Return where a run's data are, and its models go: the trainer's device."""
    return run.data.trainer.strategy.root_device


def batches(run: Run, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images in [0, 1] and labels, in order, always the same number at once: what is drawn per batch, stays."""
    data = run.data.dataset(split)
    parts = torch.arange(len(data)).split(128)
    for images, labels in zip(data.blocks(parts), data.labels.split(128), strict=True):
        yield images.float() / 255, labels
