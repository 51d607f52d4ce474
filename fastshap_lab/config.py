"""What a run can be told: the typed schema of ``configs/``, and building a component from its table entry."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from omegaconf import MISSING
from pydantic import TypeAdapter, ValidationError

from fastshap_lab.errors import UserError

T = TypeVar("T")

STAGES = ("classifier", "surrogate", "explainer", "evaluate")


@dataclass
class ComponentConfig:
    """An entry of a table, and the arguments of its constructor."""

    name: str = MISSING
    params: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataConfig(ComponentConfig):
    """Where images come from, and the players on them."""

    grid: list[int] = MISSING


@dataclass
class AugmentConfig:
    """Random changes of training images; all zero leaves them alone."""

    flip: bool = False
    crop_padding: int = 0
    rotation: float = 0.0
    scale: float = 0.0
    translate: float = 0.0
    padding_mode: str = "zeros"


@dataclass
class OptimConfig:
    """Optimizer and schedule; see ``stages/optim.py``."""

    name: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "one_cycle"
    warmup: float = 0.1
    clip_norm: float | None = None


@dataclass
class TrainingConfig(ComponentConfig):
    """What the three trained stages share."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    epochs: int = MISSING
    batch_size: int = 128
    patience: int | None = None


@dataclass
class ClassifierConfig(TrainingConfig):
    """The model to be explained."""

    label_smoothing: float = 0.0


@dataclass
class SurrogateConfig(TrainingConfig):
    """The model that imitates it under coalitions."""

    masking: str = MISSING
    num_coalitions: int = 1
    from_classifier: bool = True


@dataclass
class ExplainerConfig(TrainingConfig):
    """The network that predicts the surrogate's Shapley values."""

    link: str = "softmax"
    normalization: str = "additive"
    num_coalitions: int = 16
    paired: bool = True
    efficiency_penalty: float = 0.0
    bundle_classifier: bool = True


@dataclass
class PipelineConfig:
    """One classifier, surrogate and explainer to evaluate: choices of those groups, and values that differ."""

    classifier: str = MISSING
    surrogate: str = MISSING
    explainer: str = MISSING
    overrides: list[str] = field(default_factory=list)


@dataclass
class EvaluateConfig:
    """What to measure and draw."""

    pipelines: dict[str, PipelineConfig] = field(default_factory=dict)
    references: int = 64
    masks_per_image: int = 4
    images_shown: int = 8
    bootstrap: int = 1000


@dataclass
class TrainerConfig:
    """Hardware, and the number format; the latter alone can change a result."""

    accelerator: str = "auto"
    devices: int | str = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"
    max_batch: int = 512


@dataclass
class LoggerConfig:
    """Where curves go beside ``metrics.csv``."""

    name: str = "csv"
    project: str = "fastshap_lab"
    mode: str = "online"


@dataclass
class Config:
    """The whole of it."""

    stage: str = "all"
    name: str | None = None
    seed: int = 0
    runs_dir: str = "runs"
    dry_run: bool = False
    debug: bool = False
    data: DataConfig = field(default_factory=DataConfig)
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)
    explainer: ExplainerConfig = field(default_factory=ExplainerConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of an error line: the nearest known word if one is near, and all that are known."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}known: {', '.join(known)}"


def lookup(table: Mapping[str, T], key: str, name: str) -> T:
    """Return a table's entry.

    Raises:
        UserError: There is no such entry; names the configuration key and the known entries.
    """
    if name not in table:
        raise UserError(f"{key}={name}: unknown, {did_you_mean(name, table)}")
    return table[name]


def build(table: Mapping[str, Callable[..., T]], group: str, name: str, params: Mapping[str, Any], **given: Any) -> T:
    """Return the table's component, constructed.

    Args:
        table: Names and constructors.
        group: The configuration group, for error lines.
        name: The entry.
        params: The user's arguments, checked against the constructor's signature and annotations.
        given: Arguments that follow from data or other components, which the user cannot contradict.

    Raises:
        UserError: Unknown entry, unknown, missing or ill-typed argument.
    """
    constructor = lookup(table, f"{group}.name", name)
    accepted = {
        key: parameter for key, parameter in inspect.signature(constructor).parameters.items() if key not in given
    }
    for key in params:
        if key not in accepted:
            raise UserError(f"{group}.params.{key}: unknown to {name}, {did_you_mean(key, accepted)}")
    for key, parameter in accepted.items():
        if parameter.default is parameter.empty and key not in params:
            raise UserError(f"{group}.params.{key}: missing, {name} needs it")
    checked = {}
    for key, value in params.items():
        try:
            checked[key] = TypeAdapter(accepted[key].annotation).validate_python(value)
        except ValidationError as error:
            raise UserError(f"{group}.params.{key}={value}: {error.errors()[0]['msg'].lower()}") from None
    return constructor(**given, **checked)
