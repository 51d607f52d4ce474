"""Attention of the class token in each block of the models."""

from fastshap_lab.attribution.raw_attention import RawAttention
from fastshap_lab.attribution.rollout import GradientRollout, Rollout
from fastshap_lab.attribution.score_matrix import ScoreMatrix
from fastshap_lab.components import Count
from fastshap_lab.errors import UserError
from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.section import Section
from fastshap_lab.report import layer_maps

_FINAL = {ScoreMatrix: "score_matrix", Rollout: "rollout", GradientRollout: "gradient_rollout"}


class AttentionLayers(Section):
    """Attention maps, with a row for each model and a column for each block; maps of methods that use it are below.

    Reference: Hebbar, Okafor, Banerjee, Interpreting vision transformers, section 3.3.

    Args:
        images: Number of evaluated images, with a figure for each.
    """

    kind = "attention_layers"

    def __init__(self, images: Count = 3) -> None:
        self.images = images

    def __call__(self, evaluation: Evaluation, name: str) -> None:
        """Add a figure for each image."""
        indices = evaluation.evaluated[: self.images]
        image, refused = evaluation.images(indices), []
        layers, final = {}, {kind: {} for kind in _FINAL}
        for pipeline in evaluation.pipelines:
            target = evaluation.classes(pipeline)[: len(indices), 0]
            for kind in (RawAttention, *_FINAL):
                chosen = (one.method for one in evaluation.methods(pipeline).values())
                try:
                    method = next((one for one in chosen if type(one) is kind), None) or kind(pipeline.classifier)
                except UserError as error:
                    refused.append(f"Not applicable to {pipeline.name}: {error}.")
                    continue
                if isinstance(method, RawAttention):
                    layers[pipeline.name] = method.all_heads(image).mean(dim=2).cpu().numpy()
                else:
                    final[kind][pipeline.name] = method.attribute(image, target).cpu().numpy()
        figures = {}
        for place, picture in enumerate(evaluation.pictures(indices)):
            of_image = {model: maps[place] for model, maps in layers.items()}
            made = {
                _FINAL[kind]: {model: maps[place] for model, maps in found.items()} for kind, found in final.items()
            }
            figures[f"{name}-{place + 1}", f"Image {place + 1}"] = layer_maps(
                picture, of_image, {title: found for title, found in made.items() if found}
            )
        text = (
            "Each map shows the class token's attention to patches in a block, averaged over heads. Below are the "
            "score matrix (of the last block, if its settings do not choose another), rollout, and rollout weighted "
            "by gradients for the predicted class, which combine all blocks."
        )
        evaluation.report.add(self.titled("Attention by block", name), "\n\n".join([text, *refused]), figures=figures)
