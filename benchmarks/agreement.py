"""How far surrogates of one classifier, trained alike but for the seed, agree on its Shapley values (digits).

    python benchmarks/agreement.py --runs-dir runs

An explainer cannot be closer to the classifier than its surrogate is. Each recipe is trained with several seeds. R² is
that of one surrogate's values as a prediction of another's, over all ordered pairs of seeds. "averaged" is R² between
the means over the first and over the second half of the seeds, as if the outputs of several surrogates were averaged.
"""

import argparse
import itertools
import subprocess
import sys
from pathlib import Path
from statistics import mean

import pandas as pd
import torch

from fastshap_lab.data import DATASETS
from fastshap_lab.evaluation.references import reference_order
from fastshap_lab.inference import load_surrogate
from fastshap_lab.models.freezing import frozen_copy
from fastshap_lab.shapley import shapley_values

TRAIN = Path(__file__).parents[1] / "train.py"
RECIPES = {
    "the demo's: 30 epochs, 2 masks per image": [],
    "120 epochs": ["surrogate.epochs=120"],
    "8 masks per image": ["surrogate.num_coalitions=8"],
    "8 masks per image, 60 epochs, twice as wide": [
        "surrogate.params.channels=[32,64,128,256]",
        "surrogate.num_coalitions=8",
        "surrogate.epochs=60",
    ],
}


def train(*words: str) -> None:
    """Run the command line."""
    subprocess.run([sys.executable, str(TRAIN), *words], check=True, stdout=subprocess.DEVNULL)


def newest(runs: Path, stage: str) -> Path:
    """Return the run folder that was written last."""
    return max((path for path in (runs / stage).glob("*-*/")), key=lambda path: (path / "run.json").stat().st_mtime)


def r2(values: torch.Tensor, truth: torch.Tensor) -> float:
    """Return R², pooled over images, players and classes."""
    return 1 - float((values - truth).square().sum() / (truth - truth.mean()).square().sum())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--evaluations", type=int, default=4096, help="evaluations of each image, by KernelSHAP")
    given = parser.parse_args()
    runs = given.runs_dir.resolve()
    train("stage=classifier", f"runs_dir={runs}")
    model = newest(runs, "classifier") / "model"
    test = DATASETS["digits"]().dataset("test")
    image = test.images_at(reference_order(len(test))[: given.images]).float() / 255
    rows = []
    for recipe, overrides in RECIPES.items():
        found, divergences = [], []
        for seed in range(given.seeds):
            chosen = ["classifier=checkpoint", f"classifier.path={model}", f"seed={seed}", f"runs_dir={runs}"]
            train("stage=surrogate", *chosen, *overrides)
            surrogate = newest(runs, "surrogate")
            divergences.append(pd.read_json(surrogate / "metrics.json", typ="series")["test/masked_kl"])
            game = frozen_copy(load_surrogate(surrogate / "model")).game()
            found.append(shapley_values(game, image, budget=given.evaluations, seed=10**6).phi)
        half = given.seeds // 2
        averaged = [torch.stack(part).mean(dim=0) for part in (found[:half], found[half:])]
        rows.append(
            {
                "recipe": recipe,
                "masked KL": mean(divergences),
                "R² of one for another": mean(r2(one, other) for one, other in itertools.permutations(found, 2)),
                f"R², {half} averaged": mean(r2(one, other) for one, other in itertools.permutations(averaged, 2)),
            }
        )
        print(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3f"), flush=True)
