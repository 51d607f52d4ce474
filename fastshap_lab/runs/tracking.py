"""Logging to Weights & Biases: a W&B run for each run folder, with its settings, curves, tables and figures."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from fastshap_lab.config import Config
from fastshap_lab.errors import UserError
from fastshap_lab.records import METRICS_FILE, RECORD, REPORT
from fastshap_lab.runs.run import Run


@contextmanager
def tracked(run: Run) -> Iterator[None]:
    """Keep a W&B run open as ``run.tracker`` while a run is made, if ``logger=wandb``.

    Its group is the pipeline, its job type the stage. If W&B is online, the models that the stage builds on are its
    input artifacts.

    Raises:
        UserError: W&B refuses, for example without an account.
    """
    config = run.config.logger
    # A trial of a sweep is one W&B run, that of the stage in `stage`; the agent has chosen its id.
    if config.name != "wandb" or (_sweeping() and run.stage.name != run.config.stage):
        yield
        return
    import wandb  # here, as the import takes a second

    folder = run.folder.resolve()
    # By default W&B would write to the home directory.
    os.environ["WANDB_DATA_DIR"] = os.environ["WANDB_CACHE_DIR"] = str(folder / "wandb")
    try:
        tracker = wandb.init(
            project=config.project,
            name=f"{run.stage.name}/{folder.name}",
            group=f"{run.config.name or run.config.data.name}/{run.pipeline}"[:128],  # W&B's limit
            job_type=run.stage.name,
            id=None if _sweeping() else run.record().get("id"),
            resume="allow",
            dir=folder,
            mode=config.mode,
            config={**asdict(run.config), **run.summary()},
            settings=wandb.Settings(silent=True, console="off"),
        )
    except wandb.Error as error:
        raise UserError(f"logger=wandb: {str(error).splitlines()[0]}; logger.mode=offline needs no account") from None
    tracker.define_metric("*", step_metric="epoch")
    with tracker:  # closes the W&B run, and marks it as failed after an exception
        run.tracker = tracker
        if not tracker.offline:
            for parent in run.parents.values():
                if parent.stage.trains:
                    tracker.use_artifact(_artifact(parent))  # uploads it if W&B does not have it
        yield
    run.tracker = None


def log_results(run: Run, tables: Mapping[str, pd.DataFrame], figures: Mapping[str, Path]) -> None:
    """Send tables and figures to W&B if a W&B run is open.

    Args:
        run: Run that they belong to.
        tables: Tables by name.
        figures: Paths of the figures by name.
    """
    if run.tracker:
        import wandb

        shown: dict[str, Any] = {name: wandb.Table(dataframe=table) for name, table in tables.items()}
        run.tracker.log(shown | {name: wandb.Image(str(path)) for name, path in figures.items()})


def log_outputs(run: Run) -> None:
    """Send the measures and ``run.json`` of a finished run to W&B if a W&B run is open.

    If W&B is online, the model or the report becomes an artifact, too.
    """
    if run.tracker:
        run.tracker.log(run.measures())
        copied = shutil.copy(run.folder / RECORD, run.tracker.dir)  # W&B warns about files elsewhere
        run.tracker.save(copied, base_path=run.tracker.dir, policy="now")
        if not run.tracker.offline and (run.stage.trains or run.stage.reports):
            run.tracker.log_artifact(_artifact(run))


def log_again(run: Run) -> None:
    """Send curves and measures of a run that was finished before to W&B if it is a trial of a sweep.

    Without them, the sweep would miss the result of this trial.
    """
    if _sweeping() and run.config.logger.name == "wandb" and run.stage.name == run.config.stage:
        with tracked(run):
            if (run.folder / METRICS_FILE).is_file():
                for _, row in run.history().iterrows():
                    run.tracker.log(row.dropna().to_dict())
            log_outputs(run)


def upload_command(config: Config) -> str | None:
    """Return the command that uploads the W&B runs on disk, or None if W&B does not write to disk."""
    offline = config.logger.name == "wandb" and config.logger.mode == "offline"
    return f"wandb sync {config.runs_dir}/*/*/wandb/offline-run-*" if offline else None


def _sweeping() -> bool:
    return "WANDB_SWEEP_ID" in os.environ


def _artifact(run: Run) -> Any:
    """Return a run's model folder, or its report, as an artifact, which W&B identifies by its content."""
    import wandb

    name = re.sub(r"[^a-zA-Z0-9_.-]", "-", f"{run.stage.name}-{run.folder.name}")[-128:]
    artifact = wandb.Artifact(name, "model" if run.stage.trains else "report", metadata=run.summary())
    if run.stage.trains:
        artifact.add_dir(str(run.model))
    else:
        artifact.add_file(str(run.folder / REPORT))
    return artifact
