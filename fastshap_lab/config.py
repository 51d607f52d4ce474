"""The typed schema of the configuration, whose files are in ``fastshap_lab/configs/``.

The text below each key is its line in ``docs/configuration.md``, which ``python docs/configuration.py`` generates.
"""

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
    # File names may have 255 bytes, and those of figures contain up to three of these names.
    if len(os.fsencode(name)) > 64:
        raise ValueError("too long, at most 64 bytes")
    return name


# OmegaConf checks types while it composes a configuration; at the end pydantic checks the ranges, see ``validated``.
Level = Annotated[float, Field(ge=0, le=1)]
Levels = Annotated[list[Level], Field(min_length=1, max_length=4)]  # one number for each channel
Spread = Annotated[list[Positive], Field(min_length=1, max_length=4)]
FolderName = Annotated[str, Field(pattern=r"^\w[\w .+-]*$"), AfterValidator(_short)]


@dataclass
class ComponentConfig:
    """Name of a component in its table, and arguments of its constructor."""

    name: str = MISSING
    """Name of the component in its table."""
    params: dict[str, Any] = field(default_factory=dict)
    """Arguments of its constructor, without those that follow from the data."""


@dataclass
class DataConfig(ComponentConfig):
    """The data set, and the grid of players on its images."""

    grid: Annotated[list[Count], Field(min_length=2, max_length=2)] = MISSING
    """Rows and columns of the players, such as `[4,4]`, which must divide the image. Up to 16 players have exact
    references by default.
    """
    task: Component | None = None
    """What the labels mean. `null`: the data set chooses what its labels fit. `{name: regression, params: {tolerance:
    0.5}}` sets the largest error of a right answer, in standard deviations of the training targets.
    """


@dataclass
class AugmentConfig:
    """Random changes of training images; the defaults change nothing."""

    flip: bool = False
    """Mirror half of the training images left to right."""
    crop_padding: Annotated[int, Field(ge=0)] = 0
    """Largest translation in whole pixels."""
    rotation: NotNegative = 0.0
    """Largest rotation in radians, in both directions."""
    scale: Share = 0.0
    """Largest change of size, as a fraction, in both directions."""
    translate: NotNegative = 0.0
    """Largest translation as a fraction of half the image, in both directions."""
    policy: Annotated[str, _one_of("none", "cifar10")] = "none"
    """`cifar10` applies a sub-policy of AutoAugment for CIFAR-10 after the other changes."""
    padding_mode: Annotated[str, _one_of("zeros", "border", "reflection")] = "zeros"
    """What fills the edges of a moved image."""


@dataclass
class OptimConfig:
    """Optimizer and learning-rate schedule; see ``training/optim.py``."""

    name: str = "adamw"
    """Optimizer; `sgd` has Nesterov momentum 0.9."""
    lr: Positive = 1e-3
    """Peak learning rate."""
    weight_decay: NotNegative = 0.0
    """Decay of weights; biases and norms are not decayed."""
    schedule: str = "one_cycle"
    """Learning-rate schedule. `plateau` halves the rate after 5 epochs without a better one."""
    warmup: Share = 0.1
    """Fraction of all steps during which the learning rate rises."""
    clip_norm: Positive | None = None
    """Largest norm of the gradient. `null`: gradients are not clipped."""


@dataclass
class TrainingConfig(ComponentConfig):
    """Settings that all trainings share."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    epochs: Count = MISSING
    """Number of epochs. The weights of the best epoch on the validation images are kept. A classifier with 0 epochs is
    explained as its file, library or code has it.
    """
    batch_size: Count = 128
    """Number of images in a step."""
    patience: Count | None = None
    """Number of epochs without a better one after which the training stops. `null`: it never stops early."""


@dataclass
class ClassifierConfig(TrainingConfig):
    """The model that is explained."""

    epochs: Annotated[int, Field(ge=0)] = MISSING
    label_smoothing: Share = 0.0
    """Fraction of a label that is spread over all classes. It has no effect on a regression."""
    pretrain: TrainingConfig | None = None
    """Pretraining as a masked autoencoder, by the stage `pretrain`: `{name: mae, params: …, epochs: …, …}` with the
    keys of any training. Its `params` are `mask_ratio`, `decoder_width`, `decoder_depth` and `decoder_heads`.
    `classifier=mae_vit` has one.
    """
    teacher: str | None = None
    """Model folder of a classifier whose predictions are learned beside the labels, by a head of their own in networks
    that have two, such as timm's distilled ViTs.
    """
    weights: str | None = None
    """File with weights for the network: safetensors, or a state dict with tensors only. The head is replaced if
    classes differ; positions are resampled for networks of timm.
    """
    path: str | None = None
    """With `classifier=checkpoint`, the model folder to use. With `classifier=import`, `package.module:factory` of your
    own code.
    """
    freeze: bool = False
    """Train the head only: timm's `get_classifier()`, or else the last linear layer or convolution. The rest stays in
    evaluation mode, without dropout and with fixed batch statistics.
    """
    mean: Levels | None = None
    """Mean of the pixels in [0, 1], a number for each channel of the network: 3 (RGB), 1 (luminance), or 4 (RGB and
    alpha, which is 1 everywhere). `null`: what the library states for the weights, or else the mean of the training
    images.
    """
    std: Spread | None = None
    """Standard deviation of the pixels, as `mean`."""


@dataclass
class SurrogateConfig(TrainingConfig):
    """The model that imitates the classifier on images with absent players."""

    masking: Component = MISSING
    """How absent players are hidden. Arguments are given as `{name: blur, params: {width: 4}}`. `attention`,
    `token_drop` and `mask_token` are for ViTs, the others for any network.
    """
    loss: Annotated[str, _one_of("kl", "reverse_kl", "squared_error")] | None = None
    """What is minimized: `kl` is KL(classifier ‖ surrogate), `reverse_kl` is KL(surrogate ‖ classifier), of softmax or
    of each label's Bernoulli distribution; `squared_error`, in units of the spread, is for a regression. `null`: the
    first one of the task.
    """
    num_coalitions: Count = 1
    """Number of coalitions for each image and step."""
    from_classifier: bool = True
    """Start from the classifier's weights where names and shapes match. The weights of a ViT with another patch size
    are resampled.
    """


@dataclass
class LabelsConfig:
    """Values of the game for every training image, which are evaluated once for explainers to learn from."""

    evaluations: Count = 128
    """Number of coalitions that are evaluated for each image, in pairs and without repeats; even."""
    copies: Annotated[int, Field(ge=0)] = 8
    """Number of augmented copies of each image, beside the original."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass
class ExplainerConfig(TrainingConfig):
    """The network that predicts the Shapley values of the surrogate's game."""

    link: str | None = None
    """Space of the values. `null`: the first one of the task."""
    normalization: str = "additive"
    """How raw values are changed to satisfy efficiency."""
    loss: Annotated[str, _one_of("labels", "fastshap")] = "labels"
    """`labels` learns from values of the game that are evaluated once for every training image and its copies, by the
    stage `labels`, and shared by all explainers of a surrogate. `fastshap` evaluates new coalitions in every step.
    """
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    sampler: str = "stratified"
    """With `loss=fastshap`, how coalitions are drawn."""
    num_coalitions: Count = 16
    """With `loss=fastshap`, the number of coalitions for each image and step; even."""
    efficiency_penalty: NotNegative = 0.0
    """Weight of the squared efficiency gap of the raw values in the loss."""
    monitor: Annotated[str, _one_of("loss", "shapley_error")] = "loss"
    """Measure that chooses the best epoch: the validation `loss`, or `shapley_error`, which is 1 − R² against
    references.
    """
    bundle_classifier: bool = True
    """Whether the explainer's model folder contains the classifier, so that explanations have its probabilities."""


@dataclass
class ExplainConfig:
    """Images to explain in bulk, with ``stage=explain``, and what to store."""

    images: str | None = None
    """What is explained: a folder of images; a list of paths (`.txt`, `.lst`, `.list`), relative to its own folder; a
    Parquet file; a WebDataset shard (`.tar`, not compressed); a folder of these, or a pattern (`shards/*.tar`); or
    `user/name` of the hub.
    """
    split: str | None = None
    """Split of a data set of the hub. `null`: its only one."""
    image_column: str | None = None
    """Column of images in Parquet files and data sets. `null`: the first one that holds images."""
    top: Count | None = None
    """Number of classes to keep for each image, its most probable ones. `null`: all."""
    refine: Annotated[int, Field(ge=0)] = 0
    """Number of evaluations of the game for each image. 0: only the network's prediction."""
    tolerance: Positive | None = None
    """Stop the evaluations of an image when no standard error is above this fraction of the values' spread."""
    shard: Count = 4096
    """Number of images in a file."""


@dataclass
class ReferencesConfig:
    """Reference Shapley values, which runs share: exact if 2^P is at most the number of evaluations, else estimated."""

    val: Annotated[int, Field(ge=0)] = 128
    """Number of validation images with references, for `val/shapley_r2` after every epoch and for calibrating
    refinement. 0: neither.
    """
    val_evaluations: Count = 2048
    """Number of coalitions that are evaluated for each of them."""
    test: Annotated[int, Field(ge=0)] = 64
    """Number of test images with references, which errors are measured on. 0: none."""
    test_evaluations: Count = 65536
    """Number of coalitions that are evaluated for each of them."""
    kriging_tolerance: Positive | None = None
    """Use kriging for an image if two independent designs, with half of the evaluations each, differ by at most this
    fraction of the values' spread. Otherwise, and with `null`, use KernelSHAP, whose errors assume no prior.
    """


@dataclass
class PipelineConfig:
    """A pipeline to evaluate: choices of the groups classifier, surrogate and explainer, and values that differ."""

    classifier: str = MISSING
    surrogate: str | None = None
    explainer: str | None = None
    overrides: list[str] = field(default_factory=list)
    classifier_name: str | None = None


@dataclass
class EvaluateConfig:
    """What is measured and drawn."""

    pipelines: dict[FolderName, PipelineConfig] = field(default_factory=dict)
    """Pipelines to compare: `{name: {classifier: …, surrogate: …, explainer: …, overrides: […], classifier_name: …}}`.
    A pipeline may end at its classifier or surrogate. Empty: the chosen groups. `classifier_name` is the name of the
    classifier in tables, by default that of the first pipeline with it.
    """
    sections: list[str] | None = None
    """Sections of the report. `null`: all."""
    images_shown: Count = 8
    """Number of images in a figure."""
    bootstrap: Count = 1000
    """Number of resamples of the images behind each 95 % interval."""
    methods: dict[FolderName, ComponentConfig] = field(default_factory=dict)
    """Attribution methods to compare: `{name: {name: …, params: {…}}}`. `method=[rollout,rise]` adds some with their
    defaults, `method=all` all. Random and the trained explainer are always included.
    """
    metrics: dict[FolderName, ComponentConfig] = field(default_factory=dict)
    """Metrics that methods are compared by, in the same form: `metric=[deletion,insertion]` or `metric=all`."""
    checks: dict[FolderName, ComponentConfig] = field(default_factory=dict)
    """Checks, which perturb, randomize, retrain or inspect networks, in the same form: `check=[randomization]`."""
    images: Count = 64
    """Number of test images that methods are evaluated on, the first of those with references."""
    classes: Count = 2
    """Number of classes that are explained for each image, its most probable ones; the first is the target."""
    published: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    """Numbers of a paper to show beside the measured ones: `{table: {row: {column: number}}}`. The name of a row is the
    text in its columns, joined by commas.
    """


@dataclass
class TrainerConfig:
    """Settings of Lightning's trainer; only the precision can change a result."""

    accelerator: str = "auto"
    """`cpu`, `gpu`, and so on."""
    devices: int | str = 1
    """Number of devices on each node; a stage runs on one so far."""
    num_nodes: Count = 1
    """Number of machines; one so far."""
    strategy: str = "auto"
    """How several devices work together."""
    precision: str = "32-true"
    """Number format: `32-true`, or `bf16-mixed` for mixed precision."""
    max_batch: Count = 512
    """Largest number of images in a pass of a network that is not trained. It limits memory, and changes values by
    rounding only.
    """


@dataclass
class LoggerConfig:
    """Where curves are logged."""

    name: Annotated[str, _one_of("csv", "wandb")] = "csv"
    """`csv` writes `metrics.csv` in each run folder; `wandb` sends everything to Weights & Biases, too."""
    project: str = "fastshap_lab"
    """Name of the W&B project."""
    mode: Annotated[str, _one_of("online", "offline")] = "online"
    """`offline` needs no account; `wandb sync` sends the runs later."""


@dataclass
class Config:
    """The whole configuration."""

    stage: str = "all"
    """Stage to run, with the stages it needs, for every pipeline. `all`: every stage but `explain`."""
    name: FolderName | None = None
    """First part of the names of run folders. `null`: the name of the data."""
    seed: int = 0
    """Seed for weights, the order of images, augmentation and coalitions. Splits of the data do not depend on it."""
    runs_dir: str = "runs"
    """Folder of the runs, which are `<runs_dir>/<stage>/<name>-<fingerprint>`."""
    dry_run: bool = False
    """Print the plan (reuse, resume, train or make each run, with its folder and estimates of seconds and disk) and
    stop.
    """
    prune: bool = False
    """Print the sizes of runs and cached results, delete files that no run refers to, and stop. With `dry_run=true`,
    only print.
    """
    debug: bool = False
    """Print the traceback before an error line."""
    vars: dict[str, str] = field(default_factory=dict)
    """Variables that a recipe defines for its own use: `${vars.<name>}`."""
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
