"""The files of a run folder, for readers that need neither the run's configuration nor its data."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastshap_lab.errors import UserError

RECORD, MEASURES, METRICS_FILE, REPORT = "run.json", "metrics.json", "metrics.csv", "report.html"
_BYTES = 4 * 2**20  # largest size of a record; the names of all files of a result take kilobytes


def read_record(folder: Path) -> dict[str, Any]:
    """Return the content of ``run.json``, or {} if the run was never started or the file is damaged."""
    try:
        with (folder / RECORD).open("rb") as file:
            record = json.loads(file.read(_BYTES))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def model_folder(folder: str | Path) -> Path:
    """Return the model folder in a run folder; any other folder is returned unchanged.

    Raises:
        UserError: The run has no model, or its folder cannot be read.
    """
    path = Path(folder)
    try:
        record = read_record(path) if (path / RECORD).is_file() else {}
        if not record or (path / "model").is_dir():
            return path / "model" if record else path
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None
    stage, status = (f"{str(record.get(key))!r:.24}" for key in ("stage", "status"))
    raise UserError(
        f"{folder}: a run of stage {stage}, status {status}, without a model; a finished run of the stage classifier, "
        "surrogate or explainer has one"
    )


def true_value_measures(measures: Mapping[str, float]) -> dict[str, list[str]]:
    """Return the measures of each pipeline's explainer against true Shapley values as texts, R² first.

    Args:
        measures: Measures of a run of the stage evaluate, by name.

    Returns:
        Texts such as ``R² 0.912 [0.900, 0.923]``, with the confidence interval, by the name of the pipeline.
    """
    words = {"r2": "R²", "r2_beyond_equal": "beyond the equal split", "cosine": "cosine", "spearman": "Spearman"}
    found: dict[str, list[str]] = {}
    for name in dict.fromkeys(key.rpartition("/")[0] for key in measures if key.endswith("/r2")):
        for key, word in words.items():
            value, low, high = (measures.get(f"{name}/{key}{end}") for end in ("", "_low", "_high"))
            if value is None:
                continue
            interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"  # older runs lack intervals
            found.setdefault(name, []).append(f"{word} {value:.3f}{interval}")
    return found
