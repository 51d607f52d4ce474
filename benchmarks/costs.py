"""Estimated costs of stages, as plans show them, beside the measured costs.

    python benchmarks/costs.py                                     the demo
    python benchmarks/costs.py data=synthetic classifier=vit_slim      any configuration, as for train.py

The folder of the runs is empty, so that estimates come from measurements. Each run is made right after its estimate, so
that the machine is equally busy. The factor is the ratio of the two.
"""

import sys
import tempfile
import time

from rich.console import Console
from tabulate import tabulate

from fastshap_lab.compose import compose
from fastshap_lab.config import Config
from fastshap_lab.runs.execute import execute
from fastshap_lab.runs.plan import plan
from fastshap_lab.stages import STAGES
from fastshap_lab.training.trainer import device_of


def factor(estimated: float, measured: float) -> str:
    """Return the ratio of estimate and measurement."""
    return f"{estimated / measured:.2f}"


def main(words: list[str]) -> None:
    """Print a table."""
    with tempfile.TemporaryDirectory() as folder:

        def again(choices: dict[str, str], further: list[str]) -> Config:
            chosen = [f"{group}={choice}" for group, choice in choices.items()]
            return compose([*chosen, *further, *words, f"runs_dir={folder}"])

        config, rows = again({}, []), []
        for run in plan(config, again, STAGES, device_of(config.trainer)):
            start = time.perf_counter()
            cost = run.cost({})
            spent = time.perf_counter() - start
            execute([run], Console(quiet=True))
            seconds, size = run.record()["seconds"], run.record()["work"]["size"]
            row = [run.stage.name, spent, seconds, size / 1e6]
            if cost is not None:
                row += [cost.seconds, factor(cost.seconds, seconds), cost.size / 1e6, factor(cost.size, size)]
            rows.append(row)
            print(row, file=sys.stderr)
    headers = ["stage", "s to estimate", "s", "MB", "estimate, s", "factor", "estimate, MB", "factor"]
    print(tabulate(rows, headers, "github", floatfmt=".1f"))


if __name__ == "__main__":
    main(sys.argv[1:])
