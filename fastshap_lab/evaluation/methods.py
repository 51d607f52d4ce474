"""Attribution methods on a pipeline's models, and their maps, which are cached."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from fastshap_lab.attribution import METHODS, AttributionMethod
from fastshap_lab.components import arguments, build
from fastshap_lab.config import ComponentConfig
from fastshap_lab.errors import UserError
from fastshap_lab.evaluation.cost import metered
from fastshap_lab.evaluation.pipeline import Pipeline
from fastshap_lab.runs.sources import identity
from fastshap_lab.runs.store import Store, content_digest

CHUNK = 16
"""Number of images whose maps and measures are one entry of the store."""


class ImageChunk:
    """A few images that are explained together, and are loaded when they are used.

    Args:
        load: Function that returns the images, uint8 (B, 3, H, W), on the device of the models; B is at most ``CHUNK``.
    """

    def __init__(self, load: Callable[[], Tensor]) -> None:
        self._load = load

    @property
    def images(self) -> Tensor:
        """The images, uint8 (B, 3, H, W)."""
        return self._load()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the images."""
        return content_digest(self.images)


@dataclass
class AppliedMethod:
    """An attribution method on the models of a pipeline.

    Attributes:
        name: Name in tables and figures.
        method: The method, built for the pipeline's models.
        component: Name in ``METHODS`` and configured arguments.
        key: What its maps depend on beside images and classes, for keys of the store.
        store: Cache of the maps.
    """

    name: str
    method: AttributionMethod
    component: ComponentConfig
    key: dict[str, Any]
    store: Store

    @property
    def rebuildable(self) -> bool:
        """Whether ``on`` can build the method for another network, as it needs only a classifier."""
        return self.method.inputs == ("model",)

    def on(self, model: nn.Module) -> AttributionMethod:
        """Return the method with the same arguments on another network of the same architecture."""
        return _build(self.name, self.component, model=model)

    def map_key(self, chunk: ImageChunk, classes: Tensor | None) -> dict[str, Any]:
        """Return what the maps of these images depend on, as a key of the store.

        Args:
            chunk: Images.
            classes: Classes to explain of each image (B, E), or None for all classes.
        """
        return self.key | {"images": chunk.digest, "classes": None if classes is None else classes.tolist()}

    def explain(self, chunk: ImageChunk, classes: Tensor | None) -> dict[str, Tensor]:
        """Return the maps of a chunk of images and their cost, from the store if it contains them.

        Args:
            chunk: The images.
            classes: Classes to explain of each image (B, E). None: all K.

        Returns:
            ``maps`` (B, E, rows, columns) on the CPU, and ``cost`` (4,): seconds, forward and backward passes, MiB.

        Raises:
            UserError: The method does not apply, which some methods notice only when they explain.
        """

        def make() -> dict[str, Tensor]:
            image = chunk.images.float() / 255
            with metered(*self.method.modules) as cost:
                if classes is None:
                    maps = self.method.attribute_all(image)
                else:
                    maps = self.method.attribute_classes(image, classes.to(image.device))
            spent = torch.tensor([cost.seconds, cost.forward, cost.backward, cost.mebibytes], dtype=torch.float64)
            return {"maps": maps.float(), "cost": spent}

        return self.store.get("maps", self.map_key(chunk, classes), make)

    def maps(self, chunks: Sequence[ImageChunk], classes: Tensor | None) -> Tensor:
        """Return the maps (N, E, rows, columns) of all images of some chunks. Every chunk but the last is full.

        Args:
            chunks: Chunks of images.
            classes: Classes to explain of each image (N, E), or None for all classes.
        """
        chosen = [None] * len(chunks) if classes is None else classes.split(CHUNK)
        return torch.cat([self.explain(*each)["maps"] for each in zip(chunks, chosen, strict=True)])


def check_methods(chosen: Mapping[str, ComponentConfig]) -> None:
    """Raise a ``UserError`` if a method is unknown or has wrong arguments, or if two methods are uninformed."""
    for name, component in chosen.items():
        key = f"evaluate.methods.{name}"
        inputs = METHODS[component.name].inputs if component.name in METHODS else ()
        arguments(METHODS, key, component.name, component.params, *inputs)
        if name in METHODS and METHODS[name].uncalled and component.name != name:
            raise UserError(
                f"{key}.name={component.name}: every comparison includes {name}; give this method another name"
            )
    if len(baselines := [name for name, component in chosen.items() if METHODS[component.name].uninformed]) > 1:
        raise UserError(
            f"evaluate.methods: {' and '.join(baselines)} are both uninformed; keep the one that others are tested "
            "against"
        )


def apply_method(name: str, component: ComponentConfig, pipeline: Pipeline, store: Store) -> AppliedMethod:
    """Return a method on a pipeline's models.

    Args:
        name: Name in tables and figures.
        component: Name in ``METHODS`` and configured arguments.
        pipeline: Pipeline whose models are explained.
        store: Cache of the maps.

    Raises:
        UserError: The method does not apply to the models.
    """
    inputs = METHODS[component.name].inputs
    given = {
        key: value
        for key, value in (("model", pipeline.classifier), ("explainer", pipeline.explainer))
        if key in inputs
    }
    method = _build(name, component, **given)
    digests = {
        stage: pipeline.digests[stage]
        for stage in ("classifier", "explainer")
        if stage == "classifier" or stage in inputs
    }
    key = {"method": identity(METHODS, component.name, component.params), "models": digests}
    return AppliedMethod(name, method, component, key, store)


def _build(name: str, component: ComponentConfig, **given: Any) -> AttributionMethod:
    return build(METHODS, f"evaluate.methods.{name}", component.name, component.params, **given)


def with_uncalled(chosen: Mapping[str, ComponentConfig]) -> dict[str, ComponentConfig]:
    """Return the methods of a comparison: first those that every comparison includes, then the other chosen ones."""
    found: dict[str, ComponentConfig] = {}
    for entry in (entry for entry, kind in METHODS.items() if kind.uncalled):
        given = {name: component for name, component in chosen.items() if component.name == entry}
        found |= given or {entry: ComponentConfig(entry)}
    return found | {name: component for name, component in chosen.items() if name not in found}
