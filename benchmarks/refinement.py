"""R² by the number of evaluations: of a refined explainer, and of every estimator alone, on the same test images.

python benchmarks/refinement.py runs/explainer/<run> [runs/explainer/<run with more players>] --images 32 --seeds 3
"""

import argparse
from pathlib import Path

import pandas as pd
import torch
from omegaconf import OmegaConf

from fastshap_lab.components import build
from fastshap_lab.data import DATASETS
from fastshap_lab.evaluation.references import reference_order
from fastshap_lab.inference import load_explainer
from fastshap_lab.shapley import ESTIMATORS, Kriging, additive_normalization, shapley_values


def curves(run: Path, images: int, seeds: int, budgets: list[int], reference_budget: int) -> pd.DataFrame:
    """Return a row for each budget: R² of each method, and the coverage of the refined intervals."""
    config = OmegaConf.load(run / "config.yaml")
    data = build(DATASETS, "data", config.data.name, OmegaConf.to_container(config.data.params))
    test = data.dataset("test")
    image = test.images_at(reference_order(len(test))[:images]).float() / 255
    explainer = load_explainer(run / "model")
    game, players = explainer.game(), explainer.grid.num_players
    refine = explainer.refinement
    exact = 2**players <= reference_budget
    parts = [
        shapley_values(game, one, "exact" if exact else "kernel_shap", budget=reference_budget, seed=10**6)
        for one in image.split(1)
    ]
    truth = torch.cat([part.phi for part in parts])
    noise = torch.cat([part.stderr for part in parts])
    with torch.inference_mode():
        prior = explainer(image).double()
        target = explainer.classifier(image).argmax(dim=-1)
        grand, null = game.grand(image).double(), game.null(image).double()
    is_target = torch.nn.functional.one_hot(target, truth.shape[2]).bool().unsqueeze(1).expand_as(truth)
    spread = (truth - truth.mean()).square().sum()

    def r2(phi: torch.Tensor) -> float:
        return 1 - float((phi - truth).square().sum() / spread)

    random = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0), dtype=truth.dtype) * truth.std()
    rows = [{"evaluations": 0, "explainer": r2(prior), "Random": r2(additive_normalization(random, grand, null))}]
    for budget in budgets:
        row: dict[str, float] = {"evaluations": budget}
        found: dict[str, list[float]] = {}
        for seed in range(seeds):
            estimator = Kriging(game, image, seed)
            estimator.advance(budget)
            refined = refine(estimator, prior, target)
            inside = (refined.phi - truth).square() <= 1.96**2 * (refined.stderr.square() + noise.square())
            found.setdefault("explainer", []).append(r2(refined.phi))
            found.setdefault("covers target", []).append(inside[is_target].double().mean().item())
            found.setdefault("covers others", []).append(inside[~is_target].double().mean().item())
            for name in ESTIMATORS:
                if name == "exact":
                    continue
                estimate = shapley_values(game, image, name, budget=budget, seed=seed)
                known = bool(estimate.phi.isfinite().all()) and (
                    name != "kernel_shap" or budget >= ESTIMATORS[name].smallest_budget(players)
                )
                found.setdefault(name, []).append(r2(estimate.phi) if known else float("nan"))
        rows.append(row | {name: sum(values) / len(values) for name, values in found.items()})
    known = "exact" if exact else f"known but for {float(noise.square().sum() / spread):.2%} of their variance"
    print(f"\n{run.name}: {players} players, {images} test images, {seeds} seeds, references {known}\n")
    return pd.DataFrame(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders of explainers")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budgets", type=int, nargs="+", default=[16, 32, 64, 128, 256, 512, 1024, 2048, 4096])
    parser.add_argument("--reference-budget", type=int, default=65536)
    given = parser.parse_args()
    for folder in given.runs:
        table = curves(folder, given.images, given.seeds, given.budgets, given.reference_budget)
        print(table.to_markdown(index=False, floatfmt=".3f"))
