"""The typed content of a model folder's ``config.json``: descriptions of its networks, and what goes with them.

A field whose value is its default is not written. A folder that was written before a field existed means the default.
"""

from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import ConfigDict, Field
from torch import nn

from fastshap_lab.components import Component, checked
from fastshap_lab.errors import UserError
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
    """Description of a network for images: its table entry, and what follows from the data.

    Args:
        name: Entry of ``CLASSIFIERS``.
        params: Arguments of the entry.
        image_size: Height and width in pixels.
        num_classes: Number of classes K; 0 for a network without a head.
        mean: Mean colour of the training images in [0, 1], one number per channel.
        std: Standard deviation of each channel.
        task: Task that the outputs belong to, as ``build_task`` takes it; ``multiclass`` if None.
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
        """Return the network with random weights; ``module`` is the user's own, where the description names one."""
        return build_classifier(**_plain(self), module=module)


@dataclass(frozen=True)
class SurrogateNetworkSpec:
    """Description of a surrogate: a network that accepts absent players.

    Args:
        classifier: The network inside, without the channels that the masking adds.
        masking: Entry of ``MASKINGS``, or ``{name, params}``.
        grid: Rows and columns of players.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    classifier: NetworkSpec
    masking: Component
    grid: Pair

    def build(self, module: nn.Module | None = None) -> Surrogate:
        """Return the surrogate with random weights; ``module`` is the user's own network, see ``NetworkSpec.build``."""
        return build_surrogate(**_plain(self), module=module)


@dataclass(frozen=True)
class ExplainerNetworkSpec(NetworkSpec):
    """Description of an explainer network: a ``NetworkSpec`` whose ``name`` is an entry of ``EXPLAINERS``.

    Args:
        grid: Rows and columns of players.
    """

    grid: Pair

    def build(self) -> Explainer:  # type: ignore[override]
        """Return the network with random weights."""
        return build_explainer(**_plain(self))


@dataclass(frozen=True)
class Spec:
    """Description of the models in a model folder."""

    kind: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """Return the description as the plain values of ``config.json``."""
        return {"kind": self.kind, **_plain(self)}

    @classmethod
    def from_json(cls: type[S], description: dict[str, Any]) -> S:
        """Return the description that plain values make; unknown entries are ignored.

        Raises:
            UserError: A value is missing or has another type, or the class names are not as many as the classes.
        """
        return checked(cls, {one.name: description[one.name] for one in fields(cls) if one.name in description})


def _check_class_names(class_names: list[str], num_classes: int) -> None:
    if len(class_names) != num_classes:
        raise UserError(f"class_names: {len(class_names)} names for {num_classes} classes")


@dataclass(frozen=True)
class EncoderSpec(Spec):
    """Description of a pretrained encoder: a network without a head."""

    kind: ClassVar[str] = "encoder"

    network: NetworkSpec


@dataclass(frozen=True)
class ClassifierSpec(Spec):
    """Description of a classifier, with the names of its classes."""

    kind: ClassVar[str] = "classifier"

    network: NetworkSpec
    class_names: list[str]

    def __post_init__(self) -> None:
        _check_class_names(self.class_names, self.network.num_classes)


@dataclass(frozen=True)
class SurrogateSpec(Spec):
    """Description of a surrogate, with the names of its classes."""

    kind: ClassVar[str] = "surrogate"

    surrogate: SurrogateNetworkSpec
    class_names: list[str]

    def __post_init__(self) -> None:
        _check_class_names(self.class_names, self.surrogate.classifier.num_classes)


@dataclass(frozen=True)
class ExplainerSpec(Spec):
    """Description of an explainer with the models that serve it; see ``inference.AmortizedExplainer``.

    Args:
        network: The network that predicts raw values.
        surrogate: The surrogate, whose grand and null values normalize them.
        classifier: The model that the surrogate imitates, if it is bundled, else None.
        link: Entry of ``LINKS``.
        normalization: Entry of ``NORMALIZATIONS``.
        class_names: Names of the K classes.
        refinement: Arguments of ``Refinement`` that reference values have calibrated, or None.
        resize: How pictures are resized to the networks' size, see ``images.resized``.
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

    def __post_init__(self) -> None:
        _check_class_names(self.class_names, self.network.num_classes)
