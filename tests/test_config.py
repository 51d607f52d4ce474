"""The schema, the choices in ``configs/``, and the sweeps."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from fastshap_lab.attribution import METHODS
from fastshap_lab.evaluation.checks import CHECKS
from fastshap_lab.evaluation.metrics import comparable_metrics
from fastshap_lab.models.tasks import Multiclass
from fastshap_lab.stages.evaluate import check_settings
from tests.small_runs import CONFIGS, configured, planned

GROUPS = ("data", "classifier", "surrogate", "explainer", "trainer", "logger", "experiment")
LISTS = {"method": METHODS.keys(), "metric": comparable_metrics().keys(), "check": CHECKS.keys()}
SWEEPS = sorted((CONFIGS / "sweep").glob("*.yaml"))


def left_open(values: dict[str, Any], prefix: str) -> Iterator[str]:
    """Yield the keys to which a choice leaves it to the user to give a value."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from left_open(value, f"{prefix}{key}.")
        elif value == "???":
            yield f"{prefix}{key}"


@pytest.mark.parametrize(
    "path",
    [path for group in GROUPS for path in (CONFIGS / group).iterdir()],
    ids=lambda path: f"{path.parent.name}={path.stem}",
)
def test_every_choice_composes(path):
    group = path.parent.name
    prefix = "" if group == "experiment" else f"{group}."
    given = [f"{key}=something" for key in left_open(yaml.safe_load(path.read_text(encoding="utf-8")), prefix)]
    configured(f"{group}={path.stem}", *given, base=[])


@pytest.mark.parametrize("group", LISTS)
def test_every_entry_of_what_is_chosen_in_lists_has_a_file(group):
    names = {path.stem for path in (CONFIGS / group).iterdir()} - {"all"}
    assert names == LISTS[group]
    chosen = getattr(configured(f"{group}=[{','.join(sorted(names))}]", base=[]).evaluate, f"{group}s")
    assert {name: component.name for name, component in chosen.items()} == {name: name for name in names}
    check_settings(configured(f"{group}=[{','.join(sorted(names))}]", base=[]).evaluate, Multiclass())


@pytest.mark.parametrize("group", ["method", "metric"])
def test_all_are_all(group):
    assert getattr(configured(f"{group}=all", base=[]).evaluate, f"{group}s").keys() == LISTS[group]


@pytest.mark.parametrize("size", ["16", "32"])
@pytest.mark.parametrize(
    ("classifier", "surrogate", "explainer"),
    [
        ("resnet_slim", "resnet_slim", "unet_slim"),
        ("vit_slim", "vit_slim", "vit_slim"),
        ("resnet18", "resnet18", "unet"),
        ("vit", "vit", "vit"),
        ("resnet18", "vit", "vit"),
        ("vit", "resnet18", "unet"),
    ],
)
def test_the_choices_go_together(size, classifier, surrogate, explainer):
    networks = [f"classifier={classifier}", f"surrogate={surrogate}", f"explainer={explainer}"]
    runs = planned("data=synthetic", f"data.params.image_size={size}", *networks, base=[])
    assert [run.stage.name for run in runs if run.stage.name != "labels"] == [
        "classifier",
        "surrogate",
        "explainer",
        "evaluate",
    ]


def commands(sweep: dict[str, Any]) -> list[list[str]]:
    """Return the arguments of trials that try every value of a sweep, as W&B's ``${args_no_hyphens}`` writes them."""
    values = {}
    for key, parameter in sweep["parameters"].items():
        ends = [parameter[end] for end in ("value", "min", "max") if end in parameter]
        values[key] = parameter.get("values", ends)
    trials = max(map(len, values.values()))
    return [[f"{key}={tried[trial % len(tried)]}" for key, tried in values.items()] for trial in range(trials)]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_trial_of_a_sweep_plans(path):
    sweep = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert sweep["program"] == "fastshap_lab"
    assert sweep["command"] == ["${env}", "${interpreter}", "-m", "${program}", "train", "${args_no_hyphens}"]
    trials = commands(sweep)
    assert any(word.endswith("=None") for words in trials for word in words)
    for words in trials:
        runs = planned(*words, base=[])
        assert runs[-1].stage.name == path.stem
        assert runs[-1].config.logger.name == "wandb"


def test_a_later_word_wins_over_an_experiment_and_its_pipelines():
    runs = planned(
        "experiment=digits_ab",
        "evaluate.pipelines.ViT.overrides=['explainer.epochs=7', 'explainer.batch_size=9']",
        "explainer.epochs=3",
        base=[],
    )
    explainers = [run.config.explainer for run in runs if run.stage.name == "explainer"]
    assert [(one.name, one.epochs, one.batch_size) for one in explainers] == [("unet", 3, 128), ("vit", 3, 9)]
