"""The typed schema of the configuration in ``fastshap_lab/configs/``."""

import os
from dataclasses import dataclass, field
from typing import Annotated, Any

from omegaconf import MISSING, DictConfig, OmegaConf
from pydantic import AfterValidator, Field

from fastshap_lab.components import (
    Component,
    Count,
    NotNegative,
    Positive,
    Share,
    checked,
    did_you_mean,
)
from fastshap_lab.errors import UserError


def _one_of(*known: str) -> AfterValidator:
    def check(word: str) -> str:
        if word not in known:
            raise ValueError(f"unknown, {did_you_mean(word, known)}")
        return word

    return AfterValidator(check)


def _short(name: str) -> str:
    # File names may have 255 bytes, and those of figures contain up to three such names.
    if len(os.fsencode(name)) > 64:
        raise ValueError("too long, at most 64 bytes")
    return name


# OmegaConf checks types while it composes, and pydantic checks ranges at the end, see ``validated``.
Level = Annotated[float, Field(ge=0, le=1)]
Levels = Annotated[list[Level], Field(min_length=1, max_length=4)]  # one number per channel
Spread = Annotated[list[Positive], Field(min_length=1, max_length=4)]
FolderName = Annotated[str, Field(pattern=r"^\w[\w .+-]*$"), AfterValidator(_short)]


@dataclass
class ComponentConfig:
    """A component: the name of a table entry, and the arguments of its constructor."""

    name: str = MISSING
    params: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataConfig(ComponentConfig):
    """The data set, its task, and the player grid."""

    grid: Annotated[list[Count], Field(min_length=2, max_length=2)] = MISSING
    task: Component | None = None


@dataclass
class AugmentConfig:
    """Random changes of training images; with all values at zero, images are not changed."""

    flip: bool = False
    crop_padding: Annotated[int, Field(ge=0)] = 0
    rotation: NotNegative = 0.0
    scale: Share = 0.0
    translate: NotNegative = 0.0
    policy: Annotated[str, _one_of("none", "cifar10")] = "none"
    padding_mode: Annotated[str, _one_of("zeros", "border", "reflection")] = "zeros"


@dataclass
class OptimConfig:
    """The optimizer and its schedule, see ``training/optim.py``."""

    name: str = "adamw"
    lr: Positive = 1e-3
    weight_decay: NotNegative = 0.0
    schedule: str = "one_cycle"
    warmup: Share = 0.1
    clip_norm: Positive | None = None


@dataclass
class TrainingConfig(ComponentConfig):
    """Settings that all trained stages share."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    epochs: Count = MISSING
    batch_size: Count = 128
    patience: Count | None = None


@dataclass
class ClassifierConfig(TrainingConfig):
    """The model to be explained."""

    epochs: Annotated[int, Field(ge=0)] = MISSING  # 0 explains given weights without training
    label_smoothing: Share = 0.0
    pretrain: TrainingConfig | None = None
    teacher: str | None = None
    weights: str | None = None
    path: str | None = None
    freeze: bool = False
    mean: Levels | None = None
    std: Spread | None = None


@dataclass
class SurrogateConfig(TrainingConfig):
    """The surrogate, which imitates the classifier under coalitions."""

    masking: Component = MISSING
    loss: Annotated[str, _one_of("kl", "reverse_kl", "squared_error")] | None = None
    num_coalitions: Count = 1
    from_classifier: bool = True


@dataclass
class LabelsConfig:
    """Labels of explainers: values of the game for every training image, evaluated once."""

    evaluations: Count = 128
    copies: Annotated[int, Field(ge=0)] = 8
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass
class ExplainerConfig(TrainingConfig):
    """The explainer, which predicts the surrogate's Shapley values."""

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
class ExplainConfig:
    """Pictures of any number to explain, and what to keep of them."""

    images: str | None = None
    split: str | None = None
    image_column: str | None = None
    top: Count | None = None
    refine: Annotated[int, Field(ge=0)] = 0
    tolerance: Positive | None = None
    shard: Count = 4096


@dataclass
class ReferencesConfig:
    """Reference values: exact or accurate Shapley values of some images, which all runs share."""

    val: Annotated[int, Field(ge=0)] = 128
    val_evaluations: Count = 2048
    test: Annotated[int, Field(ge=0)] = 64
    test_evaluations: Count = 65536
    kriging_tolerance: Positive | None = None


@dataclass
class PipelineConfig:
    """A classifier, surrogate and explainer to evaluate: choices of these groups, and further overrides."""

    classifier: str = MISSING
    surrogate: str | None = None
    explainer: str | None = None
    overrides: list[str] = field(default_factory=list)
    classifier_name: str | None = None


@dataclass
class EvaluateConfig:
    """Sections, methods, metrics and checks of an evaluation."""

    pipelines: dict[FolderName, PipelineConfig] = field(default_factory=dict)
    sections: list[str] | None = None
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
    """Hardware and number format; of these, only the number format can change a result."""

    accelerator: str = "auto"
    devices: int | str = 1
    num_nodes: Count = 1
    strategy: str = "auto"
    precision: str = "32-true"
    max_batch: Count = 512


@dataclass
class LoggerConfig:
    """Destination of training curves beside ``metrics.csv``."""

    name: Annotated[str, _one_of("csv", "wandb")] = "csv"
    project: str = "fastshap_lab"
    mode: Annotated[str, _one_of("online", "offline")] = "online"


@dataclass
class Config:
    """The whole configuration."""

    stage: str = "all"
    name: FolderName | None = None
    seed: int = 0
    runs_dir: str = "runs"
    dry_run: bool = False
    prune: bool = False
    debug: bool = False
    vars: dict[str, str] = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    surrogate: SurrogateConfig = field(default_factory=SurrogateConfig)
    explainer: ExplainerConfig = field(default_factory=ExplainerConfig)
    explain: ExplainConfig = field(default_factory=ExplainConfig)
    references: ReferencesConfig = field(default_factory=ReferencesConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)


def validated(config: DictConfig) -> Config:
    """Return a composed configuration as dataclasses, with every value in its range.

    Raises:
        UserError: A value without a default is missing, or a value is out of its range.
    """
    for key in sorted(OmegaConf.missing_keys(config)):
        raise UserError(f"{key}: missing, it has no default")
    return checked(Config, OmegaConf.to_container(config, resolve=True))
