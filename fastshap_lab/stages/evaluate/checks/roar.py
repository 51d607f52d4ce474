"""What a classifier still learns from images without what matters by an explanation."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from itertools import product

import pandas as pd
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from skimage.filters import sobel
from torch import Tensor

from fastshap_lab.checkpoints import read_spec
from fastshap_lab.components import Count, did_you_mean
from fastshap_lab.data.augment import Augment
from fastshap_lab.data.base import SPLITS, Split
from fastshap_lab.data.loader import ImageLoader
from fastshap_lab.data.splits import TensorImages
from fastshap_lab.errors import UserError
from fastshap_lab.models.freezing import frozen
from fastshap_lab.models.specs import ClassifierSpec
from fastshap_lab.progress import track
from fastshap_lab.report import method_curves
from fastshap_lab.seeding import derive_seed
from fastshap_lab.stages.callbacks import Patience
from fastshap_lab.stages.classifier import ClassifierTraining
from fastshap_lab.stages.common import build_trainer
from fastshap_lab.stages.evaluate.base import EXPLAINER, RANDOM, Evaluation, Pipeline
from fastshap_lab.stages.evaluate.checks.base import Builder, Check
from fastshap_lab.stages.evaluate.checks.by_method import (
    Explain,
    Fraction,
    explanations,
    removed_first,
)
from fastshap_lab.stages.evaluate.statistics import player_values, with_intervals

_SOBEL = "sobel"
_BLOCK = 128  # images explained at once

Splits = dict[Split, TensorImages]


class ROAR(Check):
    """Accuracy of classifiers trained and tested on images without the players that an explanation ranks highest.

    Players are replaced by the training images' mean colour. Rankings are made once, by maps of the class that the
    original classifier predicts. Each training starts from random weights, and otherwise follows the classifier's own
    recipe, but for a teacher and given or pretrained weights, which have seen whole images.

    Reference: Hooker et al., A benchmark for interpretability methods in deep neural networks, NeurIPS 2019,
    arXiv:1806.10758.

    Args:
        methods: Names of those chosen; by default all. Random and an edge detector come with them.
        fractions: Of the players that are removed.
        seeds: Trainings for each method and fraction.
        epochs: Of each training; by default the recipe's own.
    """

    name = "roar"

    def __init__(
        self,
        methods: list[str] | None = None,
        fractions: tuple[Fraction, ...] = (0.1, 0.3, 0.5, 0.7, 0.9),
        seeds: Count = 3,
        epochs: Count | None = None,
    ) -> None:
        self.methods, self.fractions, self.seeds, self.epochs = methods, fractions, seeds, epochs

    def __call__(self, evaluation: Evaluation, methods: Mapping[str, Mapping[str, Builder]]) -> None:
        """Add a table and curves of the accuracy by method and fraction.

        Raises:
            UserError: A method is not among those chosen that apply.
        """
        found = {pipeline.name: _rankings(pipeline, methods[pipeline.name]) for pipeline in evaluation.pipelines}
        known = {name for rankings in found.values() for name in rankings}
        for name in self.methods or []:
            if name not in known:
                raise UserError(
                    f"{self.name}: params.methods={name}: not among those that apply, {did_you_mean(name, known)}"
                )
        rows, panels, refused = [], {}, []
        for pipeline in evaluation.pipelines:
            if not self._epochs(pipeline):
                refused.append(f"{pipeline.name}: not applicable: its classifier has no recipe of training.")
                continue
            rankings = {
                name: explain
                for name, explain in found[pipeline.name].items()
                if self.methods is None or name in (*self.methods, RANDOM, _SOBEL)
            }
            right, shares = self._right(evaluation, pipeline, rankings), [0.0, *self.fractions]
            for name in rankings:
                columns = {f"{share:.0%}": right[name, share] for share in shares}
                row: dict[str, str | float] = {"model": pipeline.name, "method": name}
                rows.append(row | with_intervals(columns, evaluation.run.config.evaluate.bootstrap))
            accuracies = {name: [right[name, share].mean().item() for share in shares] for name in rankings}
            panels[pipeline.name] = pd.DataFrame(accuracies, index=shares)
        tables = {(self.name, "Test accuracy by share of the players removed"): pd.DataFrame(rows)} if rows else {}
        text = (
            "Test accuracy of the classifier trained anew, from random weights, on images whose highest-ranking "
            "players are replaced by the mean colour, in training, validation and test images alike. Lower is better: "
            "what is gone was needed. Ranked by each method's map of the class that the original classifier predicts, "
            "made once; Random and Sobel, the mean strength of edges, know nothing of the classifier. "
            f"Mean over {self.seeds} trainings. Intervals: 95 %, from resampling images.\n\n" + "\n\n".join(refused)
        )
        figures = {}
        if panels:
            figures[self.name, "Test accuracy"] = method_curves(panels, "share of the players removed", "test accuracy")
        evaluation.report.add(self.titled("ROAR: remove and retrain"), text, tables, figures)

    def _epochs(self, pipeline: Pipeline) -> int:
        """Return how long to train; not at all where nobody has said how."""
        config = pipeline.runs["classifier"].config.classifier
        return 0 if config.path is not None else self.epochs or config.epochs

    def _right(
        self, evaluation: Evaluation, pipeline: Pipeline, rankings: Mapping[str, Explain]
    ) -> dict[tuple[str, float], Tensor]:
        """Return for each method and share how many of the trainings get each test image right (N,), as a share."""
        (rows, columns), fingerprint = pipeline.grid.shape, pipeline.runs["classifier"].fingerprint
        folder = "checks", f"retrained-{self._epochs(pipeline)}", f"{fingerprint[:8]}-{rows}x{columns}"
        found: dict[tuple[str, float], list[Tensor]] = {}
        jobs = list(product(rankings.items(), (0.0, *self.fractions), range(self.seeds)))
        title = f"retraining {pipeline.name}"
        for (name, explain), share, seed in track(jobs, title):
            number = round(share * pipeline.grid.num_players)
            # Pipelines that share a classifier share what does not come from their explainers.
            source = f"{EXPLAINER}-{pipeline.name}" if name == EXPLAINER else name if number else "nothing removed"
            make = partial(self._retrained, evaluation, pipeline, explain, (*folder, source), number, seed)
            place = *folder, source if number else "nothing removed", f"{number}-{seed}"
            found.setdefault((name, share), []).append(evaluation.kept(*place, make=make)["right"].double())
        return {key: torch.stack(right).mean(dim=0) for key, right in found.items()}

    def _retrained(
        self,
        evaluation: Evaluation,
        pipeline: Pipeline,
        explain: Explain,
        folder: tuple[str, ...],
        number: int,
        seed: int,
    ) -> dict[str, Tensor]:
        """Return what one training gets right, on images without their ``number`` highest-ranking players."""
        values = None
        if number:
            values = evaluation.kept(*folder, "values", make=partial(_player_values, evaluation, pipeline, explain))
        data = _without(evaluation, pipeline, values, number)
        return {"right": self._trained_right(evaluation, pipeline, data, seed)}

    def _trained_right(self, evaluation: Evaluation, pipeline: Pipeline, data: Splits, seed: int) -> Tensor:
        """Train, and return which test images are right (N,)."""
        run = pipeline.runs["classifier"]
        config = run.config.classifier
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed("roar", seed))
            network = read_spec(run.model, ClassifierSpec).network.build()
        module, best = ClassifierTraining(network, config, seed), _Best()
        module.to(memory_format=torch.channels_last)
        augment = Augment(**asdict(config.augment))
        train = ImageLoader(data["train"], config.batch_size, training=True, augment=augment, seed=seed)
        callbacks: list[Callback] = [best]
        if config.patience is not None:
            callbacks.append(Patience(module.monitor, patience=config.patience))
        trainer = build_trainer(
            evaluation.run.config.trainer,
            max_epochs=self._epochs(pipeline),
            callbacks=callbacks,
            gradient_clip_val=config.optim.clip_norm,
            enable_checkpointing=False,
        )
        try:
            trainer.fit(module, train, ImageLoader(data["val"], config.batch_size))
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
        module.load_state_dict(best.state or module.state_dict())
        asked, batches = frozen(network).to(data["test"].device), ImageLoader(data["test"], _BLOCK)
        with torch.inference_mode():
            return torch.cat([asked(batch["image"]).argmax(dim=-1) == batch["label"] for batch in batches])


class _Best(Callback):
    """Keeps the weights of the best epoch, as a recipe's own training does on disk."""

    def __init__(self) -> None:
        self.value, self.state = float("inf"), dict[str, Tensor]()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look, after validation."""
        value = trainer.callback_metrics[str(pl_module.monitor)].item()
        if value < self.value:
            self.value = value
            self.state = {name: tensor.clone() for name, tensor in pl_module.state_dict().items()}


def _rankings(pipeline: Pipeline, builders: Mapping[str, Builder]) -> dict[str, Explain]:
    return {_SOBEL: edges} | explanations(pipeline, builders)


def edges(image: Tensor, target: Tensor) -> Tensor:
    """Return the strength of edges (B, H, W) in the mean of the channels; the class does not matter."""
    return torch.stack([torch.from_numpy(sobel(one)) for one in image.double().mean(dim=1).cpu().numpy()]).to(image)


def _player_values(evaluation: Evaluation, pipeline: Pipeline, explain: Explain) -> dict[str, Tensor]:
    """Return what ranks the players (N, P) of all images of each split."""
    found = {}
    for split in SPLITS:
        data, parts = evaluation.run.data.dataset(split), []
        for block in data.blocks(torch.arange(len(data)).split(_BLOCK)):
            image = block.float() / 255
            with torch.no_grad():
                target = pipeline.classifier(image).argmax(dim=1)
            parts.append(player_values(explain(image, target).unsqueeze(1), pipeline.grid)[..., 0].float())
        found[split] = torch.cat(parts)
    return found


def _without(evaluation: Evaluation, pipeline: Pipeline, values: dict[str, Tensor] | None, number: int) -> Splits:
    """Return all images, the highest-ranking players replaced by the training images' mean colour."""
    mean, _ = evaluation.run.data.dataset("train").pixel_statistics()
    found: Splits = {}
    for split in SPLITS:
        data = evaluation.run.data.dataset(split)
        images = torch.cat(list(data.blocks(torch.arange(len(data)).split(_BLOCK))))
        if values is not None:
            removed = removed_first(values[split].to(images.device), number).unsqueeze(1)
            colour = (255 * torch.tensor(mean)).round().to(images).view(3, 1, 1)
            images = torch.where(pipeline.grid.to_pixels(removed).squeeze(1), colour, images)
        found[split] = TensorImages(images, data.labels)
    return found
