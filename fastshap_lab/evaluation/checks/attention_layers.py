"""What the class token attends to, block by block, in every model."""

from collections.abc import Mapping

from fastshap_lab.attribution import METHODS
from fastshap_lab.attribution.raw_attention import RawAttention
from fastshap_lab.components import Count
from fastshap_lab.errors import UserError
from fastshap_lab.evaluation.base import Evaluation
from fastshap_lab.evaluation.checks.base import Builder, Check
from fastshap_lab.report import layer_maps

_FINAL = ("score_matrix", "rollout", "gradient_rollout")


class AttentionLayers(Check):
    """Maps of attention, a row per model and a column per block, and what methods make of all blocks beneath.

    Reference: Hebbar, Okafor, Banerjee, Interpreting vision transformers, section 3.3.

    Args:
        images: Figures, one per judged image.
    """

    name = "attention_layers"

    def __init__(self, images: Count = 3) -> None:
        self.images = images

    def __call__(self, evaluation: Evaluation, methods: Mapping[str, Mapping[str, Builder]]) -> None:
        """Add a figure per image."""
        indices = evaluation.judged[: self.images]
        image, refused = evaluation.images(indices), []
        layers, final = {}, {name: {} for name in _FINAL}
        for pipeline in evaluation.pipelines:
            target = evaluation.classes(pipeline)[: len(indices), 0]
            for name in ("raw_attention", *_FINAL):
                try:
                    method = methods.get(pipeline.name, {}).get(name, METHODS[name])(pipeline.classifier)
                except UserError as error:
                    refused.append(f"Not applicable to {pipeline.name}: {error}.")
                    continue
                if isinstance(method, RawAttention):
                    layers[pipeline.name] = method.all_heads(image).mean(dim=2).cpu().numpy()
                else:
                    final[name][pipeline.name] = method.attribute(image, target).cpu().numpy()
        figures = {}
        for place, picture in enumerate(evaluation.pictures(indices)):
            of_image = {name: maps[place] for name, maps in layers.items()}
            made = {name: {model: maps[place] for model, maps in found.items()} for name, found in final.items()}
            figures[f"{self.name}-{place + 1}", f"Image {place + 1}"] = layer_maps(
                picture, of_image, {name: found for name, found in made.items() if found}
            )
        text = (
            "The class token's attention to patches in each block, averaged over heads. Beneath: the score matrix, "
            "which unless chosen otherwise is of the last block; and of all blocks together, rollout, and rollout "
            "weighted by gradients, of the predicted class."
        )
        evaluation.report.add(self.titled("Attention by block"), "\n\n".join([text, *refused]), figures=figures)
