"""Coverage of pixels by the masks of ViT-CX, and its effect on the map."""

import torch

from fastshap_lab.evaluation.checks.by_image import vit_cx, with_vit_cx
from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.section import Section
from fastshap_lab.report import gallery


class Coverage(Section):
    """Sum of ViT-CX's masks, and its maps before and after division by this sum.

    Reference: Xie et al., ViT-CX, IJCAI 2023, arXiv:2211.03064, figure 6 and equation 5.
    """

    kind = "coverage"

    def __call__(self, evaluation: Evaluation, name: str) -> None:
        """Add a figure for each pipeline that ViT-CX applies to."""
        indices = evaluation.evaluated[: evaluation.settings.images_shown]
        figures, (applicable, refused) = {}, with_vit_cx(evaluation)
        for pipeline in applicable:
            method = vit_cx(evaluation, pipeline.classifier, coverage=True)
            images, targets = evaluation.images(indices), evaluation.classes(pipeline)[: len(indices), 0]
            masks = [method.image_masks(image) for image in images]
            seen = torch.stack([each.sum(dim=0) for each in masks])
            after = method.attribute(images, targets)
            number = torch.tensor([len(each) for each in masks], device=seen.device)[:, None, None]
            before = after * seen / number  # equals the map with ``coverage=False``, and needs no further passes
            columns = {"sum of masks": seen, "map before": before, "map after": after}
            texts = [
                f"{len(each)} masks, sum {total.amin():.3g} to {total.amax():.3g}\n"
                f"explained: {evaluation.class_names[target]}"
                for each, total, target in zip(masks, seen, targets.tolist(), strict=True)
            ]
            figures[f"{name}-{pipeline.name}", pipeline.name] = gallery(
                evaluation.pictures(indices),
                {title: (maps.cpu().numpy(), "saliency") for title, maps in columns.items()},
                texts,
            )
        text = (
            "The figures show the sum of ViT-CX's masks, which is the coverage of each pixel, and the map before and "
            "after division by it. Without the division, pixels that many masks cover look important."
        )
        evaluation.report.add(
            self.titled("Coverage of ViT-CX's masks", name), "\n\n".join([text, *refused]), figures=figures
        )
