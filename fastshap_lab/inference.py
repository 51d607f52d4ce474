"""The public front door: load a trained model, explain images."""

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
from fastshap_lab.files import open_file, replacing
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
from fastshap_lab.records import model_folder
from fastshap_lab.shapley import LINKS, NORMALIZATIONS, Estimate, Kriging, Refinement, efficiency_gap, relative_error

# Figures take matplotlib and pandas, and a second to import: what draws them imports them.
if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LISTED, _SHOWN = 10, 8  # images in a text and in a notebook


@dataclass(frozen=True)
class Explanation:
    """What an explainer says about a batch of images.

    Attributes:
        images: (B, 3, H, W), RGB in [0, 1], at the model's size.
        values: (B, K, rows, columns), the Shapley value of each player for each class, in units of the link; (B, K, P)
            where players are segments, with NaN after the last one of an image that has fewer than others.
        predictions: (B, K), of the model that ``source`` names: probabilities, or a regression's answers.
        source: ``classifier`` where it is bundled with the explainer, else ``surrogate``.
        efficiency_gap: (B, K), what the network's raw values missed of the total, before normalization.
        classes: K class names.
        link: The space of the values.
        stderr: Standard errors of refined or estimated values, in the shape of these, else None.
        evaluations: (B,), of the game, that the refinement of each image took; 0 without one.
        segments: (B, H, W), the player that each pixel belongs to, where players are segments, else None.
        task: What the model's outputs mean.

    Example:
        >>> explainer = load_explainer("runs/explainer/…")  # doctest: +SKIP
        >>> explanation = explainer.explain("cat.png", refine=256)  # doctest: +SKIP
        >>> explanation.plot("cat.svg")  # doctest: +SKIP
        >>> explanation.values[0, 3], explanation.stderr[0, 3]  # of class 3  # doctest: +SKIP
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
        """The predictions (B, K) of all tasks but regression.

        Raises:
            UserError: They are no probabilities.
        """
        if self.task.answers != "probabilities":
            raise UserError(f"explanation.probabilities: a {self.task.name} has none; its answers are its .predictions")
        return self.predictions

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, which: int | slice) -> "Explanation":
        """Return the part about some of the images, a batch of one for a number."""
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
        """Return what notebooks show: the first images with the maps of their most probable classes."""
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
        """Return the values at image size; every pixel carries its player's value, undivided."""
        if self.segments is not None:
            owner = self.segments.long().flatten(1).unsqueeze(1).expand(-1, self.values.shape[1], -1)
            return self.values.gather(2, owner).unflatten(2, self.segments.shape[1:])
        return nn.functional.interpolate(self.values, size=self.images.shape[-2:], mode="nearest-exact")

    def plot(self, path: str | Path | None = None, classes: Classes | None = None, max_classes: int = 10) -> "Figure":
        """Return each image drawn beside one map per class, and save it if a path is given.

        Blue lowers the class's value, red raises it, zero is white; one scale per image.

        Args:
            path: The file to make or replace: PNG, or what its suffix says (``.svg``, ``.pdf``, …).
            classes: Names or numbers of the classes to show, one or several, in this order; by default all, of more
                than ``max_classes`` the most probable of each image.
            max_classes: Number of maps beside each image, at most.

        Raises:
            UserError: There is no such class, or the suffix is no figure's.
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
        """Write it as one ``.npz`` file, whole or not at all.

        Tensors are arrays under their names; ``description`` is JSON text of the rest: ``classes``, ``link``,
        ``source``, ``task``, and null for what there is not. What the model answered is ``probabilities``, of a
        regression ``predictions``. NumPy reads it, without this package and without unpickling.

        Args:
            path: The file to make or replace.
        """
        arrays = {name: value.cpu().numpy() for name, value in vars(self).items() if isinstance(value, Tensor)}
        rest = {name: value for name, value in vars(self).items() if name not in arrays}
        rest["task"], arrays[self.task.answers] = self.task.to_json(), arrays.pop("predictions")
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, description=np.array(json.dumps(rest)), **arrays)

    @classmethod
    def load(cls, path: str | Path) -> "Explanation":
        """Return what ``save`` has written; a stranger's file costs no more memory than it takes on disk.

        Raises:
            UserError: The file is missing, damaged, or something else.
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
        """Raise a ``ValueError`` where the parts do not fit together."""
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
    """Return text in one line of so many characters at most."""
    return textwrap.shorten(text, width, placeholder=" …")


class AmortizedExplainer(nn.Module):
    """Shapley values of every player for every class in one forward pass: an explainer and all it takes to serve it.

    Args:
        network: Predicts raw values.
        surrogate: Says what they must add up to.
        classifier: The model that the surrogate imitates, if it comes along.
        link: The space of the values.
        normalization: How raw values are made to add up.
        class_names: Of all K classes.
        refinement: What references have told of the explainer, if it was trained with any.
        resize: How pictures become as large as the model wants them: as those that it was trained on did.

    Attributes:
        run: Folder of the run that trained it, where ``train_explainer`` did.
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
        self.refinement = refinement or Refinement()
        self.network, self.surrogate, self.classifier = network, surrogate, classifier
        self.grid, self.class_names = network.grid, list(class_names)
        self.link, self.normalization = link, normalization
        self._frozen: tuple[Any, Surrogate] | None = None  # in a tuple: no part of this module

    @property
    def task(self) -> Task:
        """What the K outputs of the explained model mean."""
        return self.surrogate.task

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B P K"]:
        """Return normalized Shapley values of images in [0, 1]."""
        return self._explain(image)[0]

    def game(self, max_batch: int = 512) -> ModelGame:
        """Return the game whose Shapley values these are.

        It is of a frozen copy of the surrogate, which games share until its weights change or move.
        """
        # Changes in place count a tensor's version up, all others replace its memory.
        tensors = [*self.surrogate.parameters(), *self.surrogate.buffers()]
        state = [(tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for tensor in tensors]
        if self._frozen is None or self._frozen[0] != state:
            self._frozen = state, frozen_copy(self.surrogate)
        return self._frozen[1].game(self.link, max_batch).to(self.device)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.parameters()).device

    def explain(
        self, images: Images, max_batch: int = 256, refine: int = 0, tolerance: float | None = None, seed: int = 0
    ) -> Explanation:
        """Explain images for all classes.

        Args:
            images: A batch or a single one: uint8 or [0, 1] float tensors at the model's size, (3, H, W) or
                (B, 3, H, W), or PIL images or paths, which are resized to it.
            max_batch: Images per pass.
            refine: Evaluations of the game, at most, to spend on each image. They and the network's answer are evidence
                for the values that come back; with all 2^P - 2 of them these are exact. Standard errors are calibrated
                if the explainer was trained with references (``references.val``), else those of the posterior.
            tolerance: Spend no more of them when no standard error is above this share of its class's spread of values
                in the image.
            seed: Of the coalitions.

        Raises:
            UserError: An image has another size, or values outside of its range; ``refine``, ``tolerance`` or
                ``max_batch`` is out of range.
        """
        check_max_batch(max_batch)
        if refine:
            self._check_refinement(refine, tolerance)
        batch = to_tensor(images, self.grid.image_size, self.resize)
        game = self.game(max_batch) if refine else None
        parts = []
        with evaluating(self):
            # Images stop at a tolerance one by one: neighbours in a batch change nothing.
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
        # Cloned outside of inference mode: ordinary tensors, which the caller may change or use in a loss.
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
        """Return one class's values per image, as captum's attribution classes are called.

        Args:
            image: As for ``explain``.
            target: Class per image, one for all, or none for the most probable of each (of a regression, the target
                that is furthest from its mean, in spreads).

        Raises:
            UserError: As for ``explain``, or a target is no class.
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
        """Write it as one graph that takes batches of any size and needs nothing of this package, whole or not at all.

        From ``pixels`` (B, 3, H, W), float32 in [0, 1] at the model's size, come ``probabilities`` (B, K), ``values``
        (B, K, rows, columns) and ``efficiency_gap`` (B, K), as ``explain`` gives them. JSON text under ``explainer`` in
        the ONNX file's metadata, and in the extra file ``explainer.json`` of ``torch.export``'s, says the rest:
        ``classes``, ``link``, ``grid``, ….

        Args:
            path: ONNX if its suffix is ``.onnx``, which needs the extra ``export``; ``torch.export``'s if ``.pt2``.
            precision: What networks compute in: ``float32``; ``float16`` for half the size; ``int8``, of ONNX only, for
                a quarter of it, and speed on CPUs.
            calibration: Images as for ``explain``, a hundred or so, whose activations' ranges ``int8`` is to cover.
            replace: Take the place of a file that exists.

        Raises:
            UserError: The file exists, or suffix, precision or calibration are no such; a network is no graph; packages
                are missing, or the weights are more than ONNX has room for.
        """
        from fastshap_lab.export import export

        export(self, path, precision, calibration, replace)

    def _check_refinement(self, refine: int, tolerance: float | None) -> None:
        if refine < 2:
            raise UserError(f"refine={refine}: must be 2 or more, coalitions come in pairs")
        if tolerance is not None and not tolerance > 0:
            raise UserError(f"tolerance={tolerance}: must be above 0, a share of the spread of values such as 0.05")
        Kriging.check_budget(self.grid.num_players, refine)

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
        """Return normalized values, the gap before, and the surrogate's logits on the whole image."""
        full, empty = self.surrogate.game().extremes(image)
        grand, null = LINKS[self.link](full), LINKS[self.link](empty)
        raw = self.network(image)
        return NORMALIZATIONS[self.normalization](raw, grand, null), efficiency_gap(raw, grand, null), full


def build_amortized(
    spec: ExplainerSpec, surrogate: nn.Module | None = None, classifier: nn.Module | None = None
) -> AmortizedExplainer:
    """Return an explainer with random weights.

    Args:
        spec: Of a model folder.
        surrogate: The caller's own network, where that is what the surrogate is.
        classifier: The same of the classifier; one's own is left out without it.
    """
    lookup(LINKS, "link", spec.link)
    lookup(NORMALIZATIONS, "normalization", spec.normalization)
    described = None if _lacks_classifier(spec, classifier) else spec.classifier
    return AmortizedExplainer(
        spec.network.build(),
        spec.surrogate.build(surrogate),
        None if described is None else described.build(classifier),
        spec.link,
        spec.normalization,
        spec.class_names,
        _refinement(spec.refinement),
        spec.resize,
    )


def _lacks_classifier(spec: ExplainerSpec, classifier: nn.Module | None) -> bool:
    """Return whether a bundled classifier is of one's own code, and that is not there."""
    if spec.classifier is None and classifier is not None:
        raise UserError("classifier=…: no classifier is bundled with this explainer")
    return spec.classifier is not None and spec.classifier.name == IMPORT and classifier is None


def _refinement(description: dict[str, Any] | None) -> Refinement | None:
    """Return what references have told; of explainers from before refinement by kriging, it was something else."""
    return None if description is None or "error" not in description else Refinement(**description)


def load_classifier(folder: str | Path, module: nn.Module | None = None) -> Classifier:
    """Return a trained classifier, in evaluation mode on the CPU.

    Args:
        folder: A run folder, or the model folder in it.
        module: The caller's own network, with any weights, where that is what was explained: no code comes from a
            folder. It is copied.

    Raises:
        UserError: The folder is missing, damaged, or holds another kind of model; its network is one's own code and
            ``module`` is missing, or is another network.

    Example:
        >>> classifier = load_classifier("runs/classifier/…")  # doctest: +SKIP
        >>> classifier(torch.rand(2, 3, 32, 32)).softmax(dim=1)  # doctest: +SKIP
    """
    return load_model(model_folder(folder), ClassifierSpec, lambda spec: spec.network.build(module))


def load_surrogate(folder: str | Path, module: nn.Module | None = None) -> Surrogate:
    """Return a trained surrogate, in evaluation mode on the CPU.

    Args:
        folder: Model folder, or run folder.
        module: The caller's own network, where the surrogate is of a class of one's own code.

    Example:
        >>> game = load_surrogate("runs/surrogate/…").game()  # doctest: +SKIP
        >>> game.values(images, coalitions)  # the value of each coalition  # doctest: +SKIP
    """
    return load_model(model_folder(folder), SurrogateSpec, lambda spec: spec.surrogate.build(module))


def load_explainer(
    folder: str | Path, surrogate: nn.Module | None = None, classifier: nn.Module | None = None
) -> AmortizedExplainer:
    """Return a trained explainer, in evaluation mode on the CPU.

    Args:
        folder: A run folder, or the model folder in it.
        surrogate: The caller's own network, where the surrogate is one; see ``load_classifier``.
        classifier: The same of a bundled classifier. Without it such a one is left out, and probabilities are the
            surrogate's.

    Raises:
        UserError: As for ``load_classifier``.

    Example:
        >>> explainer = load_explainer("runs/explainer/…")  # doctest: +SKIP
        >>> explainer.explain("cat.png").plot("cat.svg")  # doctest: +SKIP
    """
    place = model_folder(folder)
    return load_model(
        place,
        ExplainerSpec,
        lambda spec: build_amortized(spec, surrogate, classifier),
        without="classifier." if _lacks_classifier(read_spec(place, ExplainerSpec), classifier) else None,
    )
