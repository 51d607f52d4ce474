"""The public interface for serving: loading trained models, and explaining images."""

import json
import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fastshap_lab.checkpoints import load_model, read_spec
from fastshap_lab.components import lookup
from fastshap_lab.errors import UserError, check_max_batch
from fastshap_lab.files import open_file, replacing, sha256
from fastshap_lab.images import Images, Resize, to_tensor
from fastshap_lab.models import (
    IMPORT,
    Classifier,
    Explainer,
    ModelGame,
    Surrogate,
    Task,
    build_task,
)
from fastshap_lab.models.freezing import evaluating, frozen_copy
from fastshap_lab.models.specs import ClassifierSpec, ExplainerSpec, SurrogateSpec
from fastshap_lab.models.targets import Classes, Targets, chosen_classes, class_of_each
from fastshap_lab.models.tasks import Multiclass
from fastshap_lab.records import RECORD, model_folder
from fastshap_lab.shapley import LINKS, NORMALIZATIONS, Estimate, Kriging, Refinement, efficiency_gap, relative_error
from fastshap_lab.sharing import fetch, is_hub_name, push_to_hub, save_pretrained

# Figures need matplotlib and pandas, whose import takes a second: functions that draw import them.
if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LISTED, _SHOWN = 10, 8  # largest numbers of images in a text and in a notebook


@dataclass(frozen=True)
class Explanation:
    """The explanation of a batch of images: Shapley values of every player for every class.

    Attributes:
        images: Images at the model's size, RGB in [0, 1], (B, 3, H, W).
        values: Shapley value of each player for each class, in units of the link, (B, K, rows, columns). Where players
            are segments it is (B, K, P), with NaN after the last segment of an image that has fewer than others.
        predictions: Predictions (B, K) of the model that ``source`` names: probabilities, or a regression's answers.
        source: ``classifier`` if it is bundled with the explainer, else ``surrogate``.
        efficiency_gap: Total minus the sum of the network's raw values, before normalization, (B, K).
        classes: Names of the K classes.
        link: Entry of ``shapley.LINKS``, the space of the values.
        stderr: Standard errors of refined or estimated values, in the shape of ``values``, else None.
        evaluations: Number of evaluations of the game spent on each image, int64 (B,); 0 without refinement.
        segments: Number of the player that each pixel belongs to, int (B, H, W), where players are segments, else None.
        task: Task that the model's outputs belong to.

    Example:
        The logits of this model are the means of the three channels, so each quarter of a red image adds 1/4 to the
        first one.

        >>> import fastshap_lab as fsl
        >>> model = nn.Sequential(nn.AvgPool2d(8), nn.Flatten())
        >>> red = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1).expand(3, 8, 8)
        >>> explanation = fsl.shapley_values(model, red, (2, 2), evaluations=14, normalized=True, link="logits")
        >>> explanation.values[0, 0]
        tensor([[0.2500, 0.2500],
                [0.2500, 0.2500]])
        >>> explanation.save("red.npz")
        >>> Explanation.load("red.npz").maps().shape
        torch.Size([1, 3, 8, 8])
    """

    images: Tensor
    values: Tensor
    predictions: Tensor
    source: str
    efficiency_gap: Tensor
    classes: list[str]
    link: str
    stderr: Tensor | None
    evaluations: Tensor
    segments: Tensor | None = None
    task: Task = field(default_factory=Multiclass)

    @property
    def probabilities(self) -> Tensor:
        """The predictions (B, K), for all tasks but regression.

        Raises:
            UserError: The task is a regression, whose predictions are no probabilities.
        """
        if self.task.answers != "probabilities":
            raise UserError(f"explanation.probabilities: a {self.task.name} has none; its answers are its .predictions")
        return self.predictions

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, which: int | slice) -> "Explanation":
        """Return the explanation of some of the images; for a number, a batch of one image."""
        if not isinstance(which, slice):
            first = range(len(self))[which]
            which = slice(first, first + 1)
        tensors = {name: value[which] for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)

    def __repr__(self) -> str:
        best = self.task.foremost(self.predictions[:_LISTED])
        said = self.predictions[:_LISTED].gather(1, best.unsqueeze(1)).squeeze(1)
        top = [
            f"  {index:>4}  {_brief(self.classes[number], 60)}  {answer:.3f}"
            for index, (number, answer) in enumerate(zip(best.tolist(), said.tolist(), strict=True))
        ]
        more = [f"        and {len(self) - _LISTED} more"] if len(self) > _LISTED else []
        return "\n".join([self._summary(), f"  {self.task.first} by the {self.source}:", *top, *more])

    def _repr_html_(self) -> str:
        """Return HTML for notebooks: the first images with the maps of their most probable classes."""
        from fastshap_lab.report import inline_figure

        first, summary = self[:_SHOWN], self._summary()
        rest = "" if len(self) == len(first) else f" The first {len(first)}:"
        return f"<p>{escape(summary + rest)}</p>{inline_figure(first._drawn(max_classes=4), summary)}"

    def _summary(self) -> str:
        names = _brief(", ".join(self.classes), 100)
        refined = "not refined"
        if self.stderr is not None:
            least, most = (int(end) for end in self.evaluations.aminmax())
            refined = f"refined with {most}{'' if least == most else f' or fewer (at least {least})'} evaluations each"
        return (
            f"Explanation of {len(self)} image{'s' * (len(self) != 1)}: Shapley values of {self._players()} for "
            f"{len(self.classes)} {self.task.nouns[len(self.classes) > 1]} ({names}), link {self.link}, {refined}"
        )

    def _players(self) -> str:
        if self.segments is None:
            return "{}×{} players".format(*self.values.shape[2:])
        fewest, most = (int(end) + 1 for end in self.segments.amax(dim=(1, 2)).aminmax())
        return f"{most if fewest == most else f'{fewest} to {most}'} segments"

    def maps(self) -> Float[Tensor, "B K H W"]:
        """Return the values as maps at image size: every pixel has the value of its whole player."""
        if self.segments is not None:
            owner = self.segments.long().flatten(1).unsqueeze(1).expand(-1, self.values.shape[1], -1)
            return self.values.gather(2, owner).unflatten(2, self.segments.shape[1:])
        return nn.functional.interpolate(self.values, size=self.images.shape[-2:], mode="nearest-exact")

    def plot(self, path: str | Path | None = None, classes: Classes | None = None, max_classes: int = 10) -> "Figure":
        """Draw each image beside one map per class, save the figure if a path is given, and return it.

        Red players raise the class's value, blue ones lower it, and white is zero. Each image has its own scale.

        Args:
            path: File to create or replace. Its suffix chooses the format (``.png``, ``.svg``, ``.pdf``, …), PNG
                without one.
            classes: Names or numbers of one or several classes to show, in this order; by default all classes, or the
                most probable ones of each image if there are more than ``max_classes``.
            max_classes: Largest number of maps beside each image.

        Raises:
            UserError: There is no such class, or the suffix is no format of figures.
        """
        from fastshap_lab.report import figure_format, save_figure

        if path is not None:
            figure_format(path)
        chosen = None if classes is None else chosen_classes(classes, self.classes)
        figure = self._drawn(classes=chosen, max_classes=max_classes)
        if path is not None:
            save_figure(figure, path)
        return figure

    def _drawn(self, **options: Any) -> "Figure":
        from fastshap_lab.report import class_maps

        return class_maps(
            self.images.permute(0, 2, 3, 1).cpu().numpy(),
            self.values.cpu().numpy(),
            self.predictions.cpu().numpy(),
            self.classes,
            value_name=f"Shapley value ({self.link})",
            segments=None if self.segments is None else self.segments.numpy(),
            ranks=self.task.ranks(self.predictions).cpu().numpy(),
            marked=self.task.marked(self.predictions).cpu().numpy(),
            said=[self.task.in_words(one, self.classes) for one in self.predictions],
            answer_format=self.task.answer_format,
            **options,
        )

    def save(self, path: str | Path) -> None:
        """Write the explanation as one file, whole or not at all: a page if the suffix is ``.html``, else ``.npz``.

        The page is that of ``save_page``. In the other file tensors are arrays under their names, and ``description``
        is
        JSON text with the other attributes: ``classes``, ``link``, ``source``, ``task``, and null for attributes that
        are None. The predictions are named ``probabilities``, or ``predictions`` for a regression. NumPy can read the
        file without this package and without unpickling.

        Args:
            path: File to create or replace.
        """
        if Path(path).suffix.lower() == ".html":
            self.save_page(path)
            return
        arrays = {name: value.cpu().numpy() for name, value in vars(self).items() if isinstance(value, Tensor)}
        rest = {name: value for name, value in vars(self).items() if name not in arrays}
        rest["task"], arrays[self.task.answers] = self.task.to_json(), arrays.pop("predictions")
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, description=np.array(json.dumps(rest)), **arrays)

    def save_page(self, path: str | Path, names: Sequence[str] | None = None, classes: Classes | None = None) -> None:
        """Write an interactive page of maps, classes and players: one HTML file that needs no other files.

        It shows the first 200 images with the ten most probable classes of each, or five with more than 64 players.

        Args:
            path: File to create or replace.
            names: Names of the images; by default they are numbered.
            classes: Names or numbers of the classes to show instead; only the first ten or five of them are shown.

        Raises:
            UserError: There is no such class.
        """
        from fastshap_lab.report import MAX_IMAGES, Explorer, Panel, View, num_classes_shown, write_page

        first, task = self[:MAX_IMAGES], self.task
        values = first.values.flatten(2)
        number = num_classes_shown(values.shape[2])
        ranked = task.ranks(first.predictions)
        if classes is None:
            shown = ranked.argsort(dim=1, descending=True, stable=True)[:, :number]
        else:
            shown = torch.tensor(chosen_classes(classes, self.classes)[:number]).expand(len(first), -1)

        def of_shown(tensor: Tensor) -> np.ndarray:
            tensor = tensor.flatten(2)
            return tensor.gather(1, shown.unsqueeze(2).expand(-1, -1, tensor.shape[2])).float().cpu().numpy()

        errors = None if first.stderr is None else of_shown(first.stderr)
        view = View(
            name="explanation",
            classes=shown.numpy(),
            answers=first.predictions.gather(1, shown).float().cpu().numpy(),
            predictions=[task.in_words(one, self.classes) for one in first.predictions],
            panels=[Panel("Shapley values", of_shown(values), errors)],
            grid=None if self.segments is not None else (self.values.shape[2], self.values.shape[3]),
            space=self.link,
        )
        explorer = Explorer(
            images=(first.images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy(),
            names=list(names or [f"image {number}" for number in range(1, len(self) + 1)])[:MAX_IMAGES],
            class_names=self.classes,
            views=[view],
            segments=None if first.segments is None else first.segments.cpu().numpy(),
            answer=task.answer,
            bounded=task.answers == "probabilities",
            noun=task.nouns[0],
        )
        rest = f"; shown are the first {MAX_IMAGES}" if len(self) > MAX_IMAGES else ""
        known = "Intervals, 95 %, stand beside values."
        if first.stderr is None:
            known = "One forward pass, of which no errors are known here; explain(images, refine=256) gives them."
        summary = {"Explained": self._summary() + rest, "How true": known, "Answers": f"of the {self.source}"}
        write_page(path, "Shapley explanations", summary, explorer=explorer)

    @classmethod
    def joined(cls, parts: Sequence["Explanation"]) -> "Explanation":
        """Return explanations by the same explainer as one; either all or none of them are refined."""
        names = [name for name, value in vars(parts[0]).items() if isinstance(value, Tensor)]
        return replace(parts[0], **{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    @classmethod
    def load(cls, path: str | Path) -> "Explanation":
        """Return the explanation that ``save`` has written; reading takes no more memory than the file on disk.

        Raises:
            UserError: The file is missing or damaged, or holds something else.
        """
        try:
            with open_file(path) as file, ZipFile(file) as archive:
                parts, size = archive.infolist(), os.fstat(file.fileno()).st_size
                if any(part.compress_type != ZIP_STORED for part in parts) or sum(p.file_size for p in parts) > size:
                    raise ValueError("it is compressed")
                file.seek(0)
                arrays = dict(np.load(file, allow_pickle=False))
            described = json.loads(str(arrays.pop("description")))
            described["task"] = build_task(described.get("task"))
            arrays["predictions"] = arrays.pop(described["task"].answers)
            loaded = cls(**described, **{name: torch.from_numpy(array) for name, array in arrays.items()})
            loaded._check()
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RuntimeError,
            MemoryError,
            EOFError,
            BadZipFile,
            UserError,
        ) as error:
            reason = getattr(error, "strerror", None) or _brief(str(error), 200) or type(error).__name__
            raise UserError(f"{path}: no explanation as Explanation.save writes it: {reason}") from None
        return loaded

    def _check(self) -> None:
        """Raise a ``ValueError`` if the shapes or types of the attributes do not fit together."""
        num_images, num_classes, *players = self.values.shape
        axes = 2 if self.segments is None else 1
        expected = {
            "values": (num_images, num_classes, *players),
            "images": (num_images, 3, *self.images.shape[2:]),
            "predictions": (num_images, num_classes),
            "efficiency_gap": (num_images, num_classes),
            "stderr": (num_images, num_classes, *players),
            "evaluations": (num_images,),
            "segments": (num_images, *self.images.shape[2:]),
        }
        for name, shape in expected.items():
            value, called = getattr(self, name), self.task.answers if name == "predictions" else name
            if value is None and name in ("stderr", "segments"):
                continue
            if value.shape != shape or len(self.images.shape) != 4 or len(players) != axes:
                raise ValueError(f"its {called} have shape {tuple(value.shape)}")
            if value.is_floating_point() == (name in ("evaluations", "segments")) or value.is_complex():
                raise ValueError(f"its {called} are of {value.dtype}")
        self.task.check_size(num_classes)
        if self.segments is not None and not 0 <= self.segments.min() <= self.segments.max() < players[0]:
            raise ValueError(f"its segments are not numbered 0 to {players[0] - 1}")
        names = [*self.classes, self.link, self.source]
        if not isinstance(self.classes, list) or len(self.classes) != num_classes or {*map(type, names)} != {str}:
            raise ValueError(f"its names are not those of {num_classes} classes")


def _brief(text: str, width: int) -> str:
    """Return a text as one line of limited width, in characters."""
    return textwrap.shorten(text, width, placeholder=" …")


class AmortizedExplainer(nn.Module):
    """An explainer with the models that serve it: Shapley values of every player for every class in one forward pass.

    Args:
        network: Network that predicts raw values.
        surrogate: Surrogate, whose grand and null values the values must add up to.
        classifier: Model that the surrogate imitates, if it is bundled, else None.
        link: Entry of ``shapley.LINKS``, the space of the values.
        normalization: Entry of ``shapley.NORMALIZATIONS``, which makes raw values efficient.
        class_names: Names of the K classes.
        refinement: Refinement that reference values have calibrated; the default one if None.
        resize: Way in which pictures are resized to the model's size, the same as in the training.

    Attributes:
        run: Folder of the run that trained the explainer, or None if it comes from no run.
        spec: Description in the explainer's model folder, or None if it comes from no folder.
        digest: SHA-256 of the model folder's description, which contains the digest of the weights.
    """

    def __init__(
        self,
        network: Explainer,
        surrogate: Surrogate,
        classifier: Classifier | None,
        link: str,
        normalization: str,
        class_names: Sequence[str],
        refinement: Refinement | None = None,
        resize: Resize = "stretch",
    ) -> None:
        super().__init__()
        self.resize = resize
        self.run: Path | None = None
        self.spec: ExplainerSpec | None = None
        self.digest: str | None = None
        self.refinement = refinement or Refinement()
        self.network, self.surrogate, self.classifier = network, surrogate, classifier
        self.grid, self.class_names = network.grid, list(class_names)
        self.link, self.normalization = link, normalization
        self._frozen: tuple[Any, Surrogate] | None = None  # a tuple, so that it is no part of this module

    @property
    def task(self) -> Task:
        """Task that the K outputs of the explained model belong to."""
        return self.surrogate.task

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B P K"]:
        """Return normalized Shapley values of images in [0, 1]."""
        return self._explain(image)[0]

    def game(self, max_batch: int = 512) -> ModelGame:
        """Return the game that is explained.

        It is the game of a frozen copy of the surrogate. The copy is reused until the surrogate's weights are changed
        or moved.

        Args:
            max_batch: Largest number of rows of a pass, one per image and coalition.
        """
        # A change in place increases a tensor's version; any other change replaces its memory.
        tensors = [*self.surrogate.parameters(), *self.surrogate.buffers()]
        state = [(tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors]
        if self._frozen is None or self._frozen[0] != state:
            self._frozen = state, frozen_copy(self.surrogate)
        return self._frozen[1].game(self.link, max_batch).to(self.device)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return next(self.parameters()).device

    def explain(
        self, images: Images, max_batch: int = 256, refine: int = 0, tolerance: float | None = None, seed: int = 0
    ) -> Explanation:
        """Explain images for all classes.

        Args:
            images: One image or a batch: tensors (3, H, W) or (B, 3, H, W) at the model's size, uint8 or float in
                [0, 1]; or PIL images or paths, which are resized.
            max_batch: Largest number of images per pass.
            refine: Largest number of evaluations of the game for each image. Values are then estimated from the
                network's answer and these evaluations together; with all 2^P - 2 coalitions they are exact. Standard
                errors are calibrated if the explainer was trained with references (``references.val``), else they are
                those of the posterior.
            tolerance: Relative error at which to stop before ``refine`` evaluations are spent: the largest standard
                error of an image and class, divided by the range of its values over the players.
            seed: Seed for drawing coalitions.

        Raises:
            UserError: An image has another size or values outside its range, or ``refine``, ``tolerance`` or
                ``max_batch`` is out of range.
        """
        check_max_batch(max_batch)
        if refine:
            check_refinement(refine, tolerance, self.grid.num_players)
        batch = to_tensor(images, self.grid.image_size, self.resize)
        game = self.game(max_batch) if refine else None
        parts = []
        with evaluating(self):
            # With a tolerance images are refined one by one, so that the others in a batch have no influence.
            for chunk in batch.split(max_batch if tolerance is None else 1):
                image = chunk.to(self.device)
                with torch.inference_mode():
                    phi, gap, full = self._explain(image)
                    predictions = self.task.predict(full if self.classifier is None else self.classifier(image))
                stderr, spent = torch.zeros_like(phi), 0
                if game is not None:
                    target = self.task.foremost(predictions)
                    refined = self._refined(game, image, phi, target, refine, tolerance, seed)
                    phi, stderr, spent = refined.phi.to(phi), refined.stderr.to(phi), refined.evaluations
                number = torch.full((len(image),), spent)
                parts.append((self.grid.to_grid(phi), gap, predictions, self.grid.to_grid(stderr), number))
        # Clones made outside of inference mode are ordinary tensors, which the caller may change or use in a loss.
        values, gap, predictions, stderr, spent = (torch.cat(part).cpu().clone() for part in zip(*parts, strict=True))
        source = "surrogate" if self.classifier is None else "classifier"
        return Explanation(
            batch,
            values,
            predictions,
            source,
            gap,
            self.class_names,
            self.link,
            stderr if refine else None,
            spent,
            task=self.task,
        )

    def attribute(self, image: Images, target: Targets | None = None) -> Float[Tensor, "B rows columns"]:
        """Return the values of one class per image; the method has the signature of captum's attribution methods.

        Args:
            image: One image or a batch, as for ``explain``.
            target: Number of one class for all images, or numbers of one class per image, as a list, array or tensor of
                integers. By default it is the most probable class of each image, and for a regression the target
                furthest from its mean, in spreads.

        Raises:
            UserError: An image has another size or values outside its range, or a target is no class.
        """
        batch = to_tensor(image, self.grid.image_size, self.resize)
        chosen = None if target is None else class_of_each(target, len(batch), len(self.class_names)).cpu()
        explanation = self.explain(batch)
        if chosen is None:
            chosen = self.task.foremost(explanation.predictions)
        return explanation.values[torch.arange(len(batch)), chosen]

    def export(
        self,
        path: str | Path,
        precision: str = "float32",
        calibration: Images | None = None,
        replace: bool = False,
    ) -> None:
        """Write the explainer as one graph for batches of any size, which runs without this package.

        The file is written whole or not at all. The graph maps ``pixels`` (B, 3, H, W), float32 in [0, 1] at the
        model's size, to ``probabilities`` (B, K), ``values`` (B, K, rows, columns) and ``efficiency_gap`` (B, K), as
        ``explain`` returns them. A description with ``classes``, ``link``, ``grid`` and more is stored as JSON text: in
        an ONNX file's metadata under ``explainer``, in a file of ``torch.export`` as the extra file ``explainer.json``.

        Args:
            path: File to write. The suffix ``.onnx`` chooses ONNX, which needs the extra ``export``, and ``.pt2``
                chooses ``torch.export``.
            precision: Number format of the networks: ``float32``; ``float16``, for half the size; or ``int8``, for ONNX
                alone, for a quarter of the size and more speed on CPUs.
            calibration: About a hundred images, as for ``explain``, on which ``int8`` measures the ranges of
                activations; None for the other precisions.
            replace: Whether to replace an existing file.

        Raises:
            UserError: The file exists, the suffix, precision or calibration is wrong, a network cannot be exported as a
                graph, packages are missing, or the weights are too large for ONNX.
        """
        from fastshap_lab.export import export

        export(self, path, precision, calibration, replace)

    def save_pretrained(self, folder: str | Path, license: str, images: Images | None = None) -> None:
        """Write the explainer as a folder with a model card, whole or not at all; ``load_explainer`` reads the folder.

        The card (``README.md``) describes the explained model, the data, the accuracy of the values as far as the run
        and its evaluation have measured it, how to load the explainer, and its limits.

        Args:
            folder: Folder to create.
            license: License of the weights, by its name on the hub: ``apache-2.0``, ``mit``, ``other``, ….
            images: Images as for ``explain``. The card shows, and so publishes, the first four with their maps.

        Raises:
            UserError: The folder exists, the license has no valid name, or this explainer comes from no model folder.
        """
        save_pretrained(self, Path(folder), license, images)

    def push_to_hub(self, name: str, license: str, images: Images | None = None, private: bool = False) -> str:
        """Upload the folder that ``save_pretrained`` writes to the Hugging Face hub, and return its address.

        Args:
            name: Name on the hub, ``user/name``. The model is created, or changed by a commit if it exists.
            license: License of the weights, as for ``save_pretrained``.
            images: Images for the model card, as for ``save_pretrained``.
            private: Whether a model that is created is visible to its owner alone.

        Raises:
            UserError: The license has no valid name, this explainer comes from no model folder, or the hub refuses.
        """
        return push_to_hub(self, name, license, images, private)

    def _refined(
        self,
        game: ModelGame,
        image: Tensor,
        answer: Tensor,
        target: Tensor,
        refine: int,
        tolerance: float | None,
        seed: int,
    ) -> Estimate:
        estimator, look = Kriging(game, image, seed), refine if tolerance is None else 2
        while True:
            estimator.advance(estimator.next_look(game.num_players, look, refine) - estimator.granted)
            estimate = self.refinement(estimator, answer, target)
            if estimator.granted >= refine or (tolerance is not None and relative_error(estimate) <= tolerance):
                return estimate
            look *= 2

    def _explain(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return normalized values, the efficiency gap before, and the surrogate's logits for whole images."""
        full, empty = self.surrogate.game().extremes(image)
        grand, null = LINKS[self.link](full), LINKS[self.link](empty)
        raw = self.network(image)
        return NORMALIZATIONS[self.normalization](raw, grand, null), efficiency_gap(raw, grand, null), full


def check_refinement(refine: int, tolerance: float | None, num_players: int) -> None:
    """Raise a ``UserError`` where values cannot be refined so.

    Args:
        refine: Evaluations of the game.
        tolerance: Share of the values' spread, if any.
        num_players: P.
    """
    if refine < 2:
        raise UserError(f"refine={refine}: must be 2 or more, coalitions come in pairs")
    if tolerance is not None and not tolerance > 0:
        raise UserError(f"tolerance={tolerance}: must be above 0, a share of the range of values such as 0.05")
    Kriging.check_budget(num_players, refine)


def build_amortized(
    spec: ExplainerSpec, surrogate: nn.Module | None = None, classifier: nn.Module | None = None
) -> AmortizedExplainer:
    """Return an explainer with random weights.

    Args:
        spec: Description of the explainer.
        surrogate: The user's own network of the surrogate, if the description names one.
        classifier: The user's own network of the bundled classifier, if the description names one; without it, the
            classifier is left out.
    """
    lookup(LINKS, "link", spec.link)
    lookup(NORMALIZATIONS, "normalization", spec.normalization)
    described = None if _lacks_classifier(spec, classifier) else spec.classifier
    explainer = AmortizedExplainer(
        spec.network.build(),
        spec.surrogate.build(surrogate),
        None if described is None else described.build(classifier),
        spec.link,
        spec.normalization,
        spec.class_names,
        _refinement(spec.refinement),
        spec.resize,
    )
    explainer.spec = spec
    return explainer


def _lacks_classifier(spec: ExplainerSpec, classifier: nn.Module | None) -> bool:
    """Return whether the bundled classifier is the user's own network, and was not handed over."""
    if spec.classifier is None and classifier is not None:
        raise UserError("classifier=…: no classifier is bundled with this explainer")
    return spec.classifier is not None and spec.classifier.name == IMPORT and classifier is None


def _refinement(description: dict[str, Any] | None) -> Refinement | None:
    """Return the refinement that a description states; those of older explainers have another form, and are ignored."""
    return None if description is None or "error" not in description else Refinement(**description)


def load_classifier(folder: str | Path, module: nn.Module | None = None) -> Classifier:
    """Return a trained classifier, in evaluation mode on the CPU.

    Args:
        folder: Run folder, or the model folder in it.
        module: The user's own network with any weights, if the classifier is one, since no code is loaded from a
            folder. It is copied.

    Raises:
        UserError: The folder is missing, damaged, or holds another kind of model; or its network is the user's own code
            and ``module`` is missing or another network.

    Example:
        A model folder, as a run has it, is written and loaded.

        >>> from fastshap_lab.checkpoints import save_model
        >>> from fastshap_lab.models.specs import NetworkSpec
        >>> network = NetworkSpec("resnet", {"channels": [8, 8, 8, 8]}, [8, 8], 2, mean=[0.5] * 3, std=[0.25] * 3)
        >>> save_model(Path("model"), network.build(), ClassifierSpec(network, ["cat", "dog"]).to_json())
        >>> load_classifier("model")(torch.rand(1, 3, 8, 8)).shape
        torch.Size([1, 2])
    """
    return load_model(model_folder(folder), ClassifierSpec, lambda spec: spec.network.build(module))


def load_surrogate(folder: str | Path, module: nn.Module | None = None) -> Surrogate:
    """Return a trained surrogate, in evaluation mode on the CPU.

    Args:
        folder: Run folder, or the model folder in it.
        module: The user's own network, if the surrogate is one; see ``load_classifier``.

    Raises:
        UserError: The folder is missing, damaged, or holds another kind of model; or its network is the user's own code
            and ``module`` is missing or another network.

    Example:
        A model folder, as a run has it, is written and loaded.

        >>> from fastshap_lab.checkpoints import save_model
        >>> from fastshap_lab.models.specs import NetworkSpec, SurrogateNetworkSpec
        >>> network = NetworkSpec("resnet", {"channels": [8, 8, 8, 8]}, [8, 8], 2, mean=[0.5] * 3, std=[0.25] * 3)
        >>> surrogate = SurrogateNetworkSpec(network, masking="mask_channel", grid=[2, 2])
        >>> save_model(Path("model"), surrogate.build(), SurrogateSpec(surrogate, ["cat", "dog"]).to_json())
        >>> game = load_surrogate("model").game()
        >>> game.values(torch.rand(1, 3, 8, 8), torch.tensor([[[True, True, False, False]]])).sum()  # probabilities
        tensor(1.)
    """
    return load_model(model_folder(folder), SurrogateSpec, lambda spec: spec.surrogate.build(module))


def load_explainer(
    folder: str | Path, surrogate: nn.Module | None = None, classifier: nn.Module | None = None
) -> AmortizedExplainer:
    """Return a trained explainer, in evaluation mode on the CPU.

    Args:
        folder: Run folder, or the model folder in it; or, if there is no such folder, ``user/name`` on the Hugging Face
            hub, which is downloaded once.
        surrogate: The user's own network, if the surrogate is one; see ``load_classifier``.
        classifier: The user's own network, if the bundled classifier is one. Without it the classifier is left out, and
            predictions are the surrogate's.

    Raises:
        UserError: The folder is missing, damaged, or holds another kind of model; or a network is the user's own code
            and is missing or another network.

    Example:
        A model folder, as a run has it, is written and loaded.

        >>> from fastshap_lab.checkpoints import save_model
        >>> from fastshap_lab.models.specs import ExplainerNetworkSpec, NetworkSpec, SurrogateNetworkSpec
        >>> data = [8, 8], 2, [0.5] * 3, [0.25] * 3  # image size, number of classes, mean and standard deviation
        >>> classifier = NetworkSpec("resnet", {"channels": [8, 8, 8, 8]}, *data)
        >>> surrogate = SurrogateNetworkSpec(classifier, masking="mask_channel", grid=[2, 2])
        >>> network = ExplainerNetworkSpec("unet", {"channels": [8]}, *data, grid=[2, 2])
        >>> spec = ExplainerSpec(network, surrogate, None, "softmax", "additive", ["cat", "dog"])
        >>> save_model(Path("model"), build_amortized(spec), spec.to_json())
        >>> explanation = load_explainer("model").explain(torch.rand(3, 8, 8))
        >>> explanation.values.shape
        torch.Size([1, 2, 2, 2])
    """
    place = fetch(str(folder)) if is_hub_name(folder) else model_folder(folder)
    if not place.exists():
        raise UserError(f"{folder}: no model folder, and no user/name of the hub")
    explainer = load_model(
        place,
        ExplainerSpec,
        lambda spec: build_amortized(spec, surrogate, classifier),
        without="classifier." if _lacks_classifier(read_spec(place, ExplainerSpec), classifier) else None,
    )
    explainer.run = place.parent if (place.parent / RECORD).is_file() else None
    explainer.digest = sha256((place / "config.json").read_bytes())
    return explainer
