"""What a run can be told: the typed schema of ``configs/``, and building a component from its table entry."""

import difflib
import inspect
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from omegaconf import MISSING, DictConfig, OmegaConf
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from fastshap_lab.errors import UserError

T = TypeVar("T")

STAGES = ("pretrain", "classifier", "surrogate", "labels", "explainer", "evaluate")
GROUPS = ("classifier", "surrogate", "explainer")  # of the configuration: what a pipeline is made of
TRAINED = ("pretrain", *GROUPS)
_LISTED = 60  # words in an error line


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of an error line: the nearest known word if one is near, and what is known, of hundreds a part."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    rest = f", and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return f"{hint}known: {', '.join(known[:_LISTED])}{rest}"


def _one_of(*known: str) -> AfterValidator:
    def check(word: str) -> str:
        if word not in known:
            raise ValueError(f"unknown, {did_you_mean(word, known)}")
        return word

    return AfterValidator(check)


def _short(name: str) -> str:
    # A file's name may have 255, and those of figures hold up to three of these.
    if len(os.fsencode(name)) > 64:
        raise ValueError("too long, at most 64 bytes")
    return name


# OmegaConf checks the types of what it composes, pydantic the ranges, at the end: see ``validated``.
Count = Annotated[int, Field(ge=1)]
Depth = Annotated[int, Field(ge=1, le=1000)]  # of a network, whose every layer takes time to build
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Spread = Annotated[list[Positive], Field(min_length=3, max_length=3)]
Color = Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=3, max_length=3)]
FolderName = Annotated[str, Field(pattern=r"^\w[\w .+-]*$"), AfterValidator(_short)]


@dataclass
class ComponentConfig:
    """An entry of a table, and the arguments of its constructor."""

    name: str = MISSING
    params: dict[str, Any] = field(default_factory=dict)


def name_and_params(component: Any, key: str) -> tuple[str, dict[str, Any]]:
    """Return an entry of a table and its arguments, given as its name alone or as ``{name: …, params: {…}}``.

    Raises:
        UserError: It is given as something else.
    """
    found = _validated(Component, component, key)
    return (found, {}) if isinstance(found, str) else (found["name"], found["params"])


def in_words(component: Any) -> str:
    """Return a ``Component`` as reports name it: ``blur (width=3)``."""
    if isinstance(component, str):
        return component
    return f"{component['name']} ({', '.join(f'{name}={value}' for name, value in component['params'].items())})"


def _shortest(component: Any) -> str | dict[str, Any]:
    if isinstance(component, str):
        return component
    given = {"params": {}, **component} if isinstance(component, Mapping) else {}
    name, params = given.pop("name", None), given.pop("params", None)
    if given or not isinstance(name, str) or not isinstance(params, Mapping):
        raise ValueError("must be a name, or {name: …, params: {…}}")
    return {"name": name, "params": dict(params)} if params else name


Component = Annotated[Any, AfterValidator(_shortest)]
"""An entry of a table: its name alone, or ``{name, params}`` where it has arguments, and so with one fingerprint."""


@dataclass
class DataConfig(ComponentConfig):
    """Where images come from, and the players on them."""

    grid: Annotated[list[Count], Field(min_length=2, max_length=2)] = MISSING
    task: Component | None = None


@dataclass
class AugmentConfig:
    """Random changes of training images; all zero leaves them alone."""

    flip: bool = False
    crop_padding: Annotated[int, Field(ge=0)] = 0
    rotation: NotNegative = 0.0
    scale: Share = 0.0
    translate: NotNegative = 0.0
    policy: Annotated[str, _one_of("none", "cifar10")] = "none"
    padding_mode: Annotated[str, _one_of("zeros", "border", "reflection")] = "zeros"


@dataclass
class OptimConfig:
    """Optimizer and schedule; see ``stages/optim.py``."""

    name: str = "adamw"
    lr: Positive = 1e-3
    weight_decay: NotNegative = 0.0
    schedule: str = "one_cycle"
    warmup: Share = 0.1
    clip_norm: Positive | None = None


@dataclass
class TrainingConfig(ComponentConfig):
    """What the three trained stages share."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    epochs: Count = MISSING
    batch_size: Count = 128
    patience: Count | None = None


@dataclass
class ClassifierConfig(TrainingConfig):
    """The model to be explained."""

    epochs: Annotated[int, Field(ge=0)] = MISSING  # none: given weights are explained as they are
    label_smoothing: Share = 0.0
    pretrain: TrainingConfig | None = None
    teacher: str | None = None
    weights: str | None = None
    path: str | None = None
    mean: Color | None = None
    std: Spread | None = None


@dataclass
class SurrogateConfig(TrainingConfig):
    """The model that imitates it under coalitions."""

    masking: Component = MISSING
    loss: Annotated[str, _one_of("kl", "reverse_kl", "squared_error")] | None = None
    num_coalitions: Count = 1
    from_classifier: bool = True


@dataclass
class LabelsConfig:
    """Values of the game for every training image, asked for once, for explainers to learn from."""

    evaluations: Count = 128
    copies: Annotated[int, Field(ge=0)] = 8
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass
class ExplainerConfig(TrainingConfig):
    """The network that predicts the surrogate's Shapley values."""

    link: str | None = None
    normalization: str = "additive"
    loss: Annotated[str, _one_of("labels", "fastshap")] = "labels"
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    sampler: str = "stratified"
    num_coalitions: Count = 16
    efficiency_penalty: NotNegative = 0.0
    monitor: Annotated[str, _one_of("loss", "shapley_error")] = "loss"
    bundle_classifier: bool = True


@dataclass
class ReferencesConfig:
    """True Shapley values, or nearly true ones, of some images; kept beside the surrogate."""

    val: Annotated[int, Field(ge=0)] = 128
    val_evaluations: Count = 2048
    test: Annotated[int, Field(ge=0)] = 64
    test_evaluations: Count = 65536
    kriging_tolerance: Positive | None = None


@dataclass
class PipelineConfig:
    """One classifier, surrogate and explainer to evaluate: choices of those groups, and values that differ."""

    classifier: str = MISSING
    surrogate: str | None = None
    explainer: str | None = None
    overrides: list[str] = field(default_factory=list)


@dataclass
class EvaluateConfig:
    """What to measure and draw."""

    pipelines: dict[FolderName, PipelineConfig] = field(default_factory=dict)
    images_shown: Count = 8
    bootstrap: Count = 1000
    methods: dict[FolderName, ComponentConfig] = field(default_factory=dict)
    metrics: dict[FolderName, ComponentConfig] = field(default_factory=dict)
    checks: dict[FolderName, ComponentConfig] = field(default_factory=dict)
    images: Count = 64
    classes: Count = 2
    published: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)


@dataclass
class TrainerConfig:
    """Hardware, and the number format; the latter alone can change a result."""

    accelerator: str = "auto"
    devices: int | str = 1
    num_nodes: Count = 1
    strategy: str = "auto"
    precision: str = "32-true"
    max_batch: Count = 512


@dataclass
class LoggerConfig:
    """Where curves go beside ``metrics.csv``."""

    name: Annotated[str, _one_of("csv", "wandb")] = "csv"
    project: str = "fastshap_lab"
    mode: Annotated[str, _one_of("online", "offline")] = "online"


@dataclass
class Config:
    """The whole of it."""

    stage: Annotated[str, _one_of(*STAGES, "all")] = "all"
    name: FolderName | None = None
    seed: int = 0
    runs_dir: str = "runs"
    dry_run: bool = False
    debug: bool = False
    vars: dict[str, str] = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)
    explainer: ExplainerConfig = field(default_factory=ExplainerConfig)
    references: ReferencesConfig = field(default_factory=ReferencesConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)


def validated(config: DictConfig) -> Config:
    """Return a composed configuration as dataclasses, every value in its range.

    Raises:
        UserError: A value that has no default is missing, or one is out of its range.
    """
    for key in sorted(OmegaConf.missing_keys(config)):
        raise UserError(f"{key}: missing, it has no default")
    return _validated(Config, OmegaConf.to_container(config, resolve=True))


def lookup(table: Mapping[str, T], key: str, name: str) -> T:
    """Return a table's entry.

    Raises:
        UserError: There is no such entry; names the configuration key and the known entries.
    """
    if name not in table:
        raise UserError(f"{key}={name}: unknown, {did_you_mean(name, table)}")
    return table[name]


def arguments(
    table: Mapping[str, Callable[..., T]], group: str, name: str, params: Mapping[str, Any], *given: str
) -> dict[str, Any]:
    """Return a component's arguments, checked against its constructor's signature and annotations.

    Args:
        table: Names and constructors.
        group: The configuration group, for error lines.
        name: The entry.
        params: The user's arguments.
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
    return {key: _validated(accepted[key].annotation, value, f"{group}.params.{key}") for key, value in params.items()}


def build(table: Mapping[str, Callable[..., T]], group: str, name: str, params: Mapping[str, Any], **given: Any) -> T:
    """Return the table's component, constructed; arguments and errors as for ``arguments``.

    Raises:
        UserError: As there, or the constructor refuses its arguments.
    """
    checked = arguments(table, group, name, params, *given)
    try:
        return table[name](**given, **checked)
    except UserError as error:
        raise UserError(re.sub(r"^params\.", f"{group}.params.", str(error))) from None
    except Exception as error:  # libraries tell of arguments that do not go together in as many ways as there are
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise UserError(f"{group}.params={checked}: {name} cannot be built from them: {reason}") from error


def _validated(expected: Any, value: Any, key: str = "") -> Any:
    """Return a value as pydantic makes it fit (lists become tuples, say); ``key`` is where it stands, "" the root."""
    try:
        return TypeAdapter(expected).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = key or ".".join(str(part) for part in first["loc"] if part != "[key]")
        text = first["msg"].removeprefix("Value error, ")
        text = "too short" if first["type"] == "missing" else re.sub(r"^\w+ should", "must", text)
        raise UserError(f"{where}={value if key else first['input']}: {text}") from None
