"""Lightning's trainer on the configured hardware."""

import logging
import warnings
from dataclasses import asdict
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from fastshap_lab.config import TrainerConfig
from fastshap_lab.errors import UserError
from fastshap_lab.training.callbacks import WholeCheckpoints


def build_trainer(config: TrainerConfig, logger: Logger | bool = False, **arguments: Any) -> Trainer:
    """Return Lightning's trainer on the configured hardware, without the notices that it prints by default.

    Args:
        config: Hardware and number format.
        logger: Lightning's logger, or False for none.
        arguments: Further arguments of ``lightning.pytorch.Trainer``.

    Raises:
        UserError: Lightning refuses a setting, or the settings need several processes.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for message in (
        ".*does not have many workers.*",  # batches are parts of a tensor on the device, without workers
        ".*GPU available but not used.*",
        ".*isinstance.treespec, LeafSpec.*",  # Lightning 2.6 on PyTorch 2.9 and later
        ".*module.s. in eval mode at the start of training.*",  # frozen features
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
            log_every_n_steps=1,  # nothing is logged per step; Lightning warns if an epoch has fewer steps than this
            use_distributed_sampler=False,  # the loaders take each rank's part themselves
            plugins=[WholeCheckpoints()],
            **arguments,
        )
    except (MisconfigurationException, ValueError, TypeError, RuntimeError, ImportError) as error:
        settings = ", ".join(f"{key}={value}" for key, value in asdict(config).items())
        raise UserError(f"trainer: {' '.join(str(error).split())} (from {settings})") from error
    if trainer.world_size > 1:
        raise UserError(
            f"trainer.devices={config.devices}, trainer.num_nodes={config.num_nodes}: a stage runs in one process "
            "on one device so far; set both to 1"
        )
    return trainer


def device_of(config: TrainerConfig) -> torch.device:
    """Return the device that trainings run on, to which images and models are moved.

    Raises:
        UserError: Lightning refuses a setting, or the settings need several processes.
    """
    return build_trainer(config).strategy.root_device
