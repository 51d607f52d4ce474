"""Remove and retrain: accuracy of classifiers that are trained without the most important players of the images."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from shutil import rmtree
from typing import Any

import pandas as pd
import torch
from filelock import FileLock
from skimage.filters import sobel
from torch import Tensor

from fastshap_lab.checkpoints import read_spec
from fastshap_lab.components import Count, did_you_mean
from fastshap_lab.config import EvaluateConfig
from fastshap_lab.data.augment import Augment
from fastshap_lab.data.base import SPLITS, Split
from fastshap_lab.data.loader import ImageLoader
from fastshap_lab.data.splits import TensorImages
from fastshap_lab.errors import UserError
from fastshap_lab.evaluation.checks.by_method import Fraction, removed_first
from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.methods import with_uncalled
from fastshap_lab.evaluation.pipeline import Pipeline
from fastshap_lab.evaluation.section import Section
from fastshap_lab.evaluation.statistics import player_values, with_intervals
from fastshap_lab.models.freezing import frozen_copy
from fastshap_lab.models.specs import ClassifierSpec
from fastshap_lab.progress import track
from fastshap_lab.report import method_curves
from fastshap_lab.runs.store import key_digest
from fastshap_lab.seeding import derive_seed
from fastshap_lab.training.classifier import ClassifierTraining
from fastshap_lab.training.training import Loaders, fit

_SOBEL = "sobel"
_BLOCK = 128  # number of images in a batch

Splits = dict[Split, TensorImages]


class ROAR(Section):
    """Accuracy of classifiers trained and tested on images without the players that an explanation ranks highest.

    Removed players get the training images' mean colour. Players are ranked once, by maps of the class that the
    original classifier predicts. Each training starts from random weights and otherwise has the settings of the
    classifier's training, without a teacher and without pretrained weights, as these have seen whole images.

    Reference: Hooker et al., A benchmark for interpretability methods in deep neural networks, NeurIPS 2019,
    arXiv:1806.10758.

    Args:
        methods: Names of methods of the evaluation. None: all. Random and an edge detector are always included.
        fractions: Fractions of the players that are removed.
        seeds: Number of trainings for each method and fraction.
        epochs: Number of epochs of each training. None: that of the classifier's training.
    """

    kind = "roar"

    def __init__(
        self,
        methods: list[str] | None = None,
        fractions: tuple[Fraction, ...] = (0.1, 0.3, 0.5, 0.7, 0.9),
        seeds: Count = 3,
        epochs: Count | None = None,
    ) -> None:
        self.methods, self.fractions, self.seeds, self.epochs = methods, fractions, seeds, epochs

    def check(self, settings: EvaluateConfig, name: str) -> None:
        """Raise a ``UserError`` if a method is not among those of the evaluation.

        Args:
            settings: Settings of the evaluation.
            name: Name of the check in the configuration.
        """
        known = {_SOBEL, *with_uncalled(settings.methods)}
        for method in self.methods or []:
            if method not in known:
                raise UserError(
                    f"evaluate.checks.{name}.params.methods={method}: not chosen, {did_you_mean(method, known)}"
                )

    def __call__(self, evaluation: Evaluation, name: str) -> None:
        """Add a table and curves of the accuracy by method and fraction."""
        found = {pipeline.name: _rankings(evaluation, pipeline) for pipeline in evaluation.pipelines}
        rows, panels, refused = [], {}, []
        for pipeline in evaluation.pipelines:
            if not self._epochs(pipeline):
                refused.append(f"Not applicable to {pipeline.name}: its classifier was not trained here.")
                continue
            rankings = {
                method: ranking
                for method, ranking in found[pipeline.name].items()
                if self.methods is None or method in (*self.methods, evaluation.baseline, _SOBEL)
            }
            right, shares = self._right(evaluation, pipeline, rankings), [0.0, *self.fractions]
            for method in rankings:
                columns = {f"{share:.0%}": right[method, share] for share in shares}
                row: dict[str, str | float] = {"model": pipeline.name, "method": method}
                rows.append(row | with_intervals(columns, evaluation.settings.bootstrap))
            accuracies = {method: [right[method, share].mean().item() for share in shares] for method in rankings}
            panels[pipeline.name] = pd.DataFrame(accuracies, index=shares)
        tables = {(name, "Test accuracy by share of the players removed"): pd.DataFrame(rows)} if rows else {}
        text = (
            "The table shows the test accuracy of classifiers that are trained from random weights on images whose "
            "highest-ranking players are replaced by the mean colour, in training, validation and test images alike. "
            "Lower is better, as the classifier then needed the removed players. Players are ranked once, by each "
            "method's map of the class that the original classifier predicts; Random and Sobel, the mean strength of "
            f"edges, do not use the classifier. Accuracies are means over {self.seeds} trainings; intervals are 95 % "
            "bootstrap intervals over images.\n\n" + "\n\n".join(refused)
        )
        figures = {}
        if panels:
            figures[name, "Test accuracy"] = method_curves(
                panels, "share of the players removed", "test accuracy", evaluation.baseline
            )
        evaluation.report.add(self.titled("ROAR: remove and retrain", name), text, tables, figures)

    def _epochs(self, pipeline: Pipeline) -> int:
        """Return the number of epochs, 0 for a classifier that comes from a model folder or from a user's code."""
        config = pipeline.runs["classifier"].config.classifier
        return 0 if config.path is not None else self.epochs or config.epochs

    def _right(
        self, evaluation: Evaluation, pipeline: Pipeline, rankings: Mapping[str, "_Ranking"]
    ) -> dict[tuple[str, float], Tensor]:
        """Return for each method and share the fraction of trainings that get each test image right (N,)."""
        recipe = {"classifier": pipeline.runs["classifier"].settings, "epochs": self._epochs(pipeline)}
        found: dict[tuple[str, float], list[Tensor]] = {}
        jobs = list(product(rankings.items(), (0.0, *self.fractions), range(self.seeds)))
        for (name, ranking), share, seed in track(jobs, f"retraining {pipeline.name}"):
            number = round(share * pipeline.grid.num_players)
            # If no players are removed, the result does not depend on the ranking.
            removed = {"players": pipeline.grid.shape, "number": number, "ranking": ranking.key} if number else None
            key = {"recipe": recipe, "removed": removed, "seed": seed, "version": self.version}
            unfinished = evaluation.store.folder / "unfinished" / key_digest("retrainings", key)[:32]
            make = partial(self._retrained, evaluation, pipeline, ranking, number, seed, unfinished)
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{unfinished}.lock"):  # if another evaluation trains the same, this one uses its result
                right = evaluation.store.get("retrainings", key, make)["right"]
            found.setdefault((name, share), []).append(right.double())
        return {key: torch.stack(right).mean(dim=0) for key, right in found.items()}

    def _retrained(
        self, evaluation: Evaluation, pipeline: Pipeline, ranking: "_Ranking", number: int, seed: int, folder: Path
    ) -> dict[str, Tensor]:
        """Return which test images one training gets right, without the ``number`` highest-ranking players."""
        values = None
        if number:
            key = {"ranking": ranking.key, "data": evaluation.data_key, "players": pipeline.grid.shape}
            key["version"] = self.version
            make = partial(_player_values, evaluation, pipeline, ranking.explain)
            values = evaluation.store.get("rankings", key, make)
        data = _without(evaluation, pipeline, values, number)
        return {"right": self._trained_right(evaluation, pipeline, data, seed, folder)}

    def _trained_right(
        self, evaluation: Evaluation, pipeline: Pipeline, data: Splits, seed: int, folder: Path
    ) -> Tensor:
        """Train, or resume the training in a folder, and return which test images are right (N,)."""
        run, trainer = pipeline.runs["classifier"], evaluation.trainer
        config = replace(run.config.classifier, epochs=self._epochs(pipeline), freeze=False)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed("roar", seed))
            network = read_spec(run.model, ClassifierSpec).network.build()
        augment = Augment(**asdict(config.augment))
        train = ImageLoader(data["train"], config.batch_size, training=True, augment=augment, seed=seed)
        loaders = Loaders(train, ImageLoader(data["val"], config.batch_size))
        module = ClassifierTraining(network, config, seed)
        fit(module, loaders, config, folder, trainer, title=self.kind, key="classifier", quiet=True)
        asked, batches = frozen_copy(network).to(data["test"].device), ImageLoader(data["test"], _BLOCK)
        with torch.inference_mode():
            answers = [(asked(batch["image"]).unsqueeze(1), batch["label"]) for batch in batches]
        right = torch.cat([network.task.right(*one).squeeze(1) for one in answers])
        rmtree(folder)
        return right


@dataclass
class _Ranking:
    """A function whose maps rank the players of an image.

    Attributes:
        key: What the maps depend on beside the images, for keys of the store.
        explain: Function from images (B, 3, H, W) and their classes (B,) to maps (B, rows, columns).
    """

    key: Any
    explain: Callable[[Tensor, Tensor], Tensor]


def _rankings(evaluation: Evaluation, pipeline: Pipeline) -> dict[str, _Ranking]:
    methods = evaluation.methods(pipeline)
    digest = {"classifier": pipeline.digests["classifier"]}  # its predictions are the explained classes
    found = {name: _Ranking(method.key | digest, method.method.attribute) for name, method in methods.items()}
    return {_SOBEL: _Ranking(_SOBEL, edges)} | found


def edges(image: Tensor, target: Tensor) -> Tensor:
    """Return the strength of edges (B, H, W) in the mean of the channels, a ranking that ignores the class.

    Args:
        image: Images (B, C, H, W) in [0, 1].
        target: Ignored: class of each image (B,).
    """
    return torch.stack([torch.from_numpy(sobel(one)) for one in image.double().mean(dim=1).cpu().numpy()]).to(image)


def _player_values(
    evaluation: Evaluation, pipeline: Pipeline, explain: Callable[[Tensor, Tensor], Tensor]
) -> dict[str, Tensor]:
    """Return the values that rank the players of all images (N, P), by split."""
    found = {}
    for split in SPLITS:
        data, parts = evaluation.data.dataset(split), []
        for block in data.blocks(torch.arange(len(data)).split(_BLOCK)):
            image = block.float() / 255
            with torch.no_grad():
                target = pipeline.task.foremost(pipeline.classifier(image))
            parts.append(player_values(explain(image, target).unsqueeze(1), pipeline.grid)[..., 0].float())
        found[split] = torch.cat(parts)
    return found


def _without(evaluation: Evaluation, pipeline: Pipeline, values: dict[str, Tensor] | None, number: int) -> Splits:
    """Return all splits, with the highest-ranking players replaced by the training images' mean colour."""
    mean, _ = evaluation.data.dataset("train").pixel_statistics()
    found: Splits = {}
    for split in SPLITS:
        data = evaluation.data.dataset(split)
        images = torch.cat(list(data.blocks(torch.arange(len(data)).split(_BLOCK))))
        if values is not None:
            removed = removed_first(values[split].to(images.device), number).unsqueeze(1)
            colour = (255 * torch.tensor(mean)).round().to(images).view(3, 1, 1)
            images = torch.where(pipeline.grid.to_pixels(removed).squeeze(1), colour, images)
        found[split] = TensorImages(images, data.labels)
    return found
