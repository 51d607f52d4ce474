"""Weights & Biases, where it is chosen: a W&B run per run folder, with its settings, curves, tables and figures."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from fastshap_lab.errors import UserError
from fastshap_lab.runs.run import Run


@contextmanager
def tracked(run: Run) -> Iterator[None]:
    """Keep a W&B run open as ``run.tracker`` while a stage is made, if ``logger=wandb``.

    Raises:
        UserError: W&B does not let us in.
    """
    config = run.config.logger
    # A trial of a sweep is a single W&B run, that of the stage which is swept; the agent has chosen its id.
    sweeping = "WANDB_SWEEP_ID" in os.environ
    if config.name != "wandb" or (sweeping and run.stage.name != run.config.stage):
        yield
        return
    import wandb  # takes a second

    folder = run.folder.resolve()
    os.environ["WANDB_DATA_DIR"] = os.environ["WANDB_CACHE_DIR"] = str(folder / "wandb")  # else in the home directory
    try:
        tracker = wandb.init(
            project=config.project,
            name=f"{run.stage.name}/{folder.name}",
            id=None if sweeping else run.record()["id"],
            resume="allow",
            dir=folder,
            mode=config.mode,
            config={**asdict(run.config), **run.summary()},
            settings=wandb.Settings(silent=True, console="off"),
        )
    except wandb.Error as error:
        raise UserError(f"logger=wandb: {str(error).splitlines()[0]}; logger.mode=offline needs no account") from None
    tracker.define_metric("*", step_metric="epoch")
    with tracker:  # ends it, as failed if an exception passes
        run.tracker = tracker
        yield
    run.tracker = None


def log_results(run: Run, tables: Mapping[str, pd.DataFrame], figures: Mapping[str, Path]) -> None:
    """Send a stage's tables and figures to W&B, if a W&B run is open.

    Args:
        run: The run that is being made.
        tables: Tables by name.
        figures: PNG files by name.
    """
    if run.tracker:
        import wandb

        shown: dict[str, Any] = {name: wandb.Table(dataframe=table) for name, table in tables.items()}
        run.tracker.log(shown | {name: wandb.Image(str(path)) for name, path in figures.items()})
