"""The explain stage: explanations of any number of pictures, which need not be the data, as Parquet files."""

from collections.abc import Mapping
from typing import Any

from fastshap_lab.bulk.shards import FAILED, Settings, write_explanations
from fastshap_lab.bulk.sources import Source, open_source
from fastshap_lab.config import Config
from fastshap_lab.errors import UserError
from fastshap_lab.inference import load_explainer
from fastshap_lab.runs.costs import Work
from fastshap_lab.runs.run import Run, Stage
from fastshap_lab.shapley import PlayerGrid
from fastshap_lab.stages.base import kind_of


def settings(config: Config, _: str) -> dict[str, Any]:
    """Return what can change the result: the pictures by names, sizes and times, which are read but once."""
    source, kept = _source(config), vars(_settings(config))
    return {"explain": kept | {"images": {"number": len(source), "digest": source.digest}}}


def check(run: Run) -> None:
    """Raise a ``UserError`` where the pictures cannot be explained so."""
    rows, columns = run.config.data.grid
    _settings(run.config).check(PlayerGrid(run.data.image_size, (rows, columns)).num_players, "explain.")


def make(run: Run) -> dict[str, float]:
    """Explain what is not there yet, and return the number of pictures, and of those that could not be read."""
    explainer = load_explainer(run.parents["explainer"].model).to(run.data.device)
    source, max_batch = _source(run.config), run.config.trainer.max_batch
    number, failed = write_explanations(
        explainer, source, run.folder, _settings(run.config), run.fingerprint, max_batch
    )
    return {"pictures": float(number), "failed": float(failed)}


def work(run: Run) -> Work:
    """Return what there is to do; how long a picture takes is known from an earlier run alone."""
    return Work(kind_of(run, "images"), run.settings["explain"]["images"]["number"], lambda: None, grows=True)


def _source(config: Config) -> Source:
    chosen = config.explain
    if chosen.images is None:
        raise UserError(
            "explain.images: missing; a folder, list of paths, Parquet file, WebDataset shard or user/name of the hub"
        )
    try:
        return open_source(chosen.images, chosen.split, chosen.image_column)
    except UserError as error:
        raise UserError(f"explain.images={chosen.images}: {error}") from None


def _settings(config: Config) -> Settings:
    chosen = config.explain
    return Settings(chosen.top, chosen.refine, chosen.tolerance, chosen.shard)


def _warnings(run: Run, measures: Mapping[str, float]) -> list[str]:
    failed, number = int(measures["failed"]), int(measures["pictures"])
    return [f"{failed:,} of {number:,} pictures could not be read: {run.folder / FAILED}"] if failed else []


STAGE = Stage(
    "explain",
    settings,
    check,
    make,
    group="explainer",
    parents=("explainer",),
    wanted=lambda config: config.stage == "explain",
    work=work,
    headline={"pictures": ",.0f", "failed": ",.0f"},
    warnings=_warnings,
    loading="explanations = fsl.read_explanations({place})",
)
