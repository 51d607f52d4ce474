"""What a model folder's ``config.json`` says, typed: the networks in it, and what goes with them.

A field that has a default, and that value, is not written: folders from before there was such a field mean the default.
"""

from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import ConfigDict, Field
from torch import nn

from fastshap_lab.components import Component, checked
from fastshap_lab.images import Resize
from fastshap_lab.models import Classifier, Explainer, Surrogate, build_classifier, build_explainer, build_surrogate

S = TypeVar("S", bound="Spec")

Whole = Annotated[int, Field(strict=True)]
Pair = Annotated[list[Whole], Field(min_length=2, max_length=2)]


def _plain(spec: Any) -> dict[str, Any]:
    values = {one.name: (getattr(spec, one.name), one.default) for one in fields(spec)}
    return {
        name: _plain(value) if is_dataclass(value) else value
        for name, (value, default) in values.items()
        if default is MISSING or value != default
    }


@dataclass(frozen=True)
class NetworkSpec:
    """A network of images: its table entry, and what follows from the data.

    Args:
        name: Entry of ``CLASSIFIERS``.
        params: Its arguments.
        image_size: Height and width.
        num_classes: K; none of a network without a head.
        mean: Mean colour of the training images.
        std: Standard deviation of each channel.
        task: What the outputs mean, as ``build_task`` takes it; one of K classes if None.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    params: dict[str, Any]
    image_size: Pair
    num_classes: Whole
    mean: list[float]
    std: list[float]
    task: Component | None = field(default=None, kw_only=True)

    def build(self, module: nn.Module | None = None) -> Classifier:
        """Return the network, with random weights; ``module`` is the caller's own, where it is of one's own code."""
        return build_classifier(**_plain(self), module=module)


@dataclass(frozen=True)
class SurrogateNetworkSpec:
    """A network that accepts missing players.

    Args:
        classifier: The network inside, without the masking's channels.
        masking: Entry of ``MASKINGS``.
        grid: Rows and columns of players.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    classifier: NetworkSpec
    masking: Component
    grid: Pair

    def build(self, module: nn.Module | None = None) -> Surrogate:
        """Return the network, with random weights; ``module`` as of the network inside."""
        return build_surrogate(**_plain(self), module=module)


@dataclass(frozen=True)
class ExplainerNetworkSpec(NetworkSpec):
    """As ``NetworkSpec``, of ``EXPLAINERS``, with the ``grid``: rows and columns of players."""

    grid: Pair

    def build(self) -> Explainer:  # type: ignore[override]
        """Return the network, with random weights."""
        return build_explainer(**_plain(self))


@dataclass(frozen=True)
class Spec:
    """What is in a model folder."""

    kind: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as they stand in ``config.json``."""
        return {"kind": self.kind, **_plain(self)}

    @classmethod
    def from_json(cls: type[S], description: dict[str, Any]) -> S:
        """Return what plain values say, of which there may be more.

        Raises:
            UserError: One is missing, or is not of its type.
        """
        return checked(cls, {one.name: description[one.name] for one in fields(cls) if one.name in description})


@dataclass(frozen=True)
class EncoderSpec(Spec):
    """What a pretraining has made: a network without a head."""

    kind: ClassVar[str] = "encoder"

    network: NetworkSpec


@dataclass(frozen=True)
class ClassifierSpec(Spec):
    """A classifier, and the names of its classes."""

    kind: ClassVar[str] = "classifier"

    network: NetworkSpec
    class_names: list[str]


@dataclass(frozen=True)
class SurrogateSpec(Spec):
    """A surrogate, and the names of its classes."""

    kind: ClassVar[str] = "surrogate"

    surrogate: SurrogateNetworkSpec
    class_names: list[str]


@dataclass(frozen=True)
class ExplainerSpec(Spec):
    """An explainer and all it takes to serve it; see ``inference.AmortizedExplainer``.

    Args:
        network: Predicts raw values.
        surrogate: Says what they must add up to.
        classifier: The model that the surrogate imitates, if it comes along.
        link: Entry of ``LINKS``.
        normalization: Entry of ``NORMALIZATIONS``.
        class_names: Of all K classes.
        refinement: What references have told, as ``Refinement`` takes it.
        resize: How pictures become as large as the networks want them.
    """

    kind: ClassVar[str] = "explainer"

    network: ExplainerNetworkSpec
    surrogate: SurrogateNetworkSpec
    classifier: NetworkSpec | None
    link: str
    normalization: str
    class_names: list[str]
    refinement: dict[str, Any] | None = None
    resize: Resize = "stretch"
