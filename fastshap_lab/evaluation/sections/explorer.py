"""Images to look into on the page: with all maps that the evaluation has made, and what the game has answered."""

from collections.abc import Iterator

import torch
from torch import Tensor

from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.pipeline import Pipeline
from fastshap_lab.evaluation.section import Section
from fastshap_lab.evaluation.statistics import player_values
from fastshap_lab.report import MAX_IMAGES, Explorer, GameAnswers, Panel, View, strongest_first
from fastshap_lab.runs.store import content_digest


class Images(Section):
    """Images to look into on the page: first those that others have made maps of, then some of each subset.

    Nothing is explained for its sake but these last ones. It asks a surrogate's game about four coalitions for each
    player of the images that have true values: a small part of what these took.
    """

    kind, appendix, tables = "images", True, ()

    def __call__(self, evaluation: Evaluation, name: str) -> None:
        """Give the report its images."""
        indices = _indices(evaluation)
        groups = _groups(evaluation)
        task = evaluation.data.task
        views = [
            view for pipeline in evaluation.pipelines if (view := self._view(evaluation, pipeline, indices)) is not None
        ]
        if not views:
            return
        evaluation.report.explorer = Explorer(
            images=evaluation.test.images_at(indices).cpu().permute(0, 2, 3, 1).numpy(),
            names=[f"test image {index}" for index in indices.tolist()],
            class_names=evaluation.class_names,
            views=views,
            labels=evaluation.labels_of(indices),
            groups=[groups[index] for index in indices.tolist()] if groups else [],
            answer=task.answer,
            bounded=task.answers == "probabilities",
            noun=task.nouns[0],
        )

    def _view(self, evaluation: Evaluation, pipeline: Pipeline, indices: Tensor) -> View | None:
        classes, task = evaluation.shown_classes(pipeline, indices), pipeline.task
        predictions = pipeline.predictions(indices)
        panels = list(_panels(evaluation, pipeline, indices, classes))
        if not panels:
            return None
        known = evaluation.known_values.get(pipeline.name)
        return View(
            pipeline.name,
            classes.numpy(),
            predictions.gather(1, classes).numpy(),
            [task.in_words(one, evaluation.class_names) for one in predictions],
            panels,
            pipeline.grid.shape,
            f"{pipeline.link}{', in spreads of the labels' if task.units_in_words else ''}",
            _right(evaluation, pipeline)[indices].numpy() if evaluation.labelled else None,
            None
            if known is None
            else self._answers(evaluation, pipeline, len(known.reference.phi), classes, panels[0]),
        )

    def _answers(
        self, evaluation: Evaluation, pipeline: Pipeline, number: int, classes: Tensor, explainer: Panel
    ) -> GameAnswers:
        """Return what the game says of everyone, nobody, one player, all but one, and of the target's best removed."""
        images, players = evaluation.test.images_at(evaluation.order[:number]), pipeline.grid.num_players
        order = torch.from_numpy(strongest_first(explainer.values[:number, 0]))
        rank = order.argsort(dim=1).unsqueeze(1)
        alone = torch.eye(players, dtype=torch.bool).expand(number, -1, -1)
        ends = torch.tensor([True, False]).view(1, 2, 1).expand(number, 2, players)
        path = rank >= torch.arange(2, players).view(1, -1, 1)  # the first removal leaves one out
        coalitions = torch.cat([ends, alone, ~alone, path], dim=1)
        game = pipeline.game(pipeline.link).in_units(pipeline.task.in_units)

        def values() -> dict[str, Tensor]:
            asked = zip(images.split(1), coalitions.to(images.device).split(1), classes[:number], strict=True)
            found = [game.values(image.float() / 255, those).cpu()[..., chosen] for image, those, chosen in asked]
            return {"values": torch.cat(found)}

        key = {
            "surrogate": pipeline.digests["surrogate"],
            "link": pipeline.link,
            "images": content_digest(images),
            "asked": content_digest(coalitions, classes[:number]),
        }
        return GameAnswers(coalitions.numpy(), self.stored(evaluation, key, values)["values"].numpy())


def _indices(evaluation: Evaluation) -> Tensor:
    """Return the test images that are shown: at first those in order, as many as anything is known of."""
    settings = evaluation.settings
    known = [len(one.reference.phi) for one in evaluation.known_values.values()]
    applied = [settings.images] if any(map(evaluation.applied_methods, evaluation.pipelines)) else []
    first = evaluation.order[: min(max([settings.images_shown, *known, *applied]), MAX_IMAGES)]
    groups = _groups(evaluation)
    more, seen = [], set(first.tolist())
    for group in dict.fromkeys(groups):
        members = [index for index in evaluation.order.tolist() if groups[index] == group][: settings.images_shown]
        more += [index for index in members if index not in seen]
    return torch.cat([first, torch.tensor(more[: MAX_IMAGES - len(first)], dtype=torch.long)])


def _panels(evaluation: Evaluation, pipeline: Pipeline, indices: Tensor, classes: Tensor) -> Iterator[Panel]:
    """Yield the maps that there are of the images, the explainer's first, as numbers of players."""
    in_units, known = pipeline.task.in_units, evaluation.known_values.get(pipeline.name)
    if pipeline.explainer is not None:
        first = int((indices == evaluation.order[: len(indices)]).long().cumprod(dim=0).sum())
        parts = [evaluation.explainer_maps(pipeline, evaluation.order, first)]
        if first < len(indices):
            parts.append(evaluation.explainer_maps(pipeline, indices[first:], len(indices) - first))
        values = in_units(torch.cat(parts).flatten(2).transpose(1, 2))
        yield Panel("explainer", _of(values, classes).numpy(), comparable=True, note="one forward pass")
    if known is not None and known.refined is not None:
        refined = known.refined
        note = f"the explainer's answer and {refined.evaluations} evaluations of the model"
        values, errors = (value.transpose(1, 2).numpy() for value in (refined.phi, refined.stderr))
        yield Panel("refined", values, errors, comparable=True, note=note)
    if known is not None:
        reference, errors = known.reference, None
        if reference.stderr.any():
            errors = _of(reference.stderr, classes).numpy()
        name = "exact" if errors is None else "reference"
        note = f"true values, {reference.kind}"
        yield Panel(name, _of(reference.phi, classes).numpy(), errors, comparable=True, note=note)
    explained = evaluation.classes(pipeline)[:, : classes.shape[1]]
    number = min(len(explained), len(indices))
    same = explained[:number] == classes[:number, : explained.shape[1]]  # ties may be in another order
    for name, method in evaluation.applied_methods(pipeline).items():
        if method.component.name == "explainer":
            continue
        parts = [method.explain(chunk, asked)["maps"] for _, chunk, asked in evaluation.evaluated_chunks(pipeline)]
        pixels = torch.cat(parts)[:number, : explained.shape[1]]
        values = player_values(pixels, pipeline.grid).transpose(1, 2) * (
            pixels[0, 0].numel() / pipeline.grid.num_players
        )
        if (spread := pipeline.task.unit()) is not None:
            values = values / spread[explained[:number]].unsqueeze(2)
        values = values.masked_fill(~same.unsqueeze(2), torch.nan)
        adds_up = method.method.unit == pipeline.link
        yield Panel(name.replace("_", " "), values.numpy(), kind=method.method.kind, adds_up=adds_up)


def _of(values: Tensor, classes: Tensor) -> Tensor:
    """Return values (n, P, K) of each image's own classes (N, E) as (n, E, P), of the first n of N images."""
    return values.transpose(1, 2).gather(1, classes[: len(values)].unsqueeze(2).expand(-1, -1, values.shape[1]))


def _groups(evaluation: Evaluation) -> list[str]:
    """Return, of all test images, which of several classifiers are right."""
    pipelines = evaluation.distinct("classifier")
    if len(pipelines) < 2 or not evaluation.labelled:
        return []
    right = torch.stack([_right(evaluation, pipeline) for pipeline in pipelines], dim=1).tolist()
    names = [pipeline.classifier_name for pipeline in pipelines]

    def group(of_each: list[bool]) -> str:
        those = [name for name, is_right in zip(names, of_each, strict=True) if is_right]
        return (
            "all right" if len(those) == len(names) else f"only {' and '.join(those)} right" if those else "all wrong"
        )

    return [group(of_each) for of_each in right]


def _right(evaluation: Evaluation, pipeline: Pipeline) -> Tensor:
    return pipeline.task.right(pipeline.outputs.unsqueeze(1), evaluation.test.labels.cpu()).squeeze(1)
