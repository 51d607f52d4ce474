"""The schema, the choices in ``configs/``, and the sweeps."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from fastshap_lab.attribution import METHODS
from fastshap_lab.choices import CONFIGS, choices
from fastshap_lab.compose import compose
from fastshap_lab.config import ComponentConfig
from fastshap_lab.errors import UserError
from fastshap_lab.evaluation.checks import CHECKS
from fastshap_lab.evaluation.metrics import comparable_metrics
from fastshap_lab.models.tasks import Multiclass
from fastshap_lab.stages.evaluate import check_settings
from tests.small_runs import configured, planned

GROUPS = ("data", "classifier", "surrogate", "explainer", "trainer", "logger", "experiment")
LISTS = {"method": METHODS, "metric": comparable_metrics(), "check": CHECKS}
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


def test_what_is_listed_can_be_chosen(tmp_path):
    for group in ("data", "network", "sweep", "unheard"):
        (tmp_path / group).mkdir()
        (tmp_path / group / "ours.yaml").write_text("name: digits\n")
    found = choices(tmp_path)
    assert found.keys() == {*GROUPS, *LISTS}  # neither files that others include nor those of W&B's sweeps
    assert "ours" in found["data"]


@pytest.mark.parametrize("group", LISTS)
def test_every_entry_of_a_table_can_be_chosen(group):
    evaluate = configured(f"{group}=[{','.join(LISTS[group])}]", base=[]).evaluate
    chosen = getattr(evaluate, f"{group}s")
    assert {name: component.name for name, component in chosen.items()} == {name: name for name in LISTS[group]}
    check_settings(evaluate, Multiclass())


@pytest.mark.parametrize("group", ["method", "metric"])
def test_all_are_all_in_the_order_of_the_table(group):
    assert list(getattr(configured(f"{group}=all", base=[]).evaluate, f"{group}s")) == list(LISTS[group])


def test_entries_of_tables_mix_with_files_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "ours", METHODS["rise"])  # an entry needs no file
    folder = tmp_path / "it's mine, too"
    for group, text in {
        "method": "name: rise\nparams: {num_masks: 64}\n",
        "check": "name: roar\nparams: {seeds: 1}\n",
    }.items():
        (folder / group).mkdir(parents=True)
        (folder / group / "mine.yaml").write_text(f"# @package evaluate.{group}s.mine\n{text}")
    words = ["method=[rise,mine,ours]", "check=[mine]", "evaluate.methods.rise.params.num_masks=32"]
    evaluate = compose(words, folder).evaluate
    assert evaluate.methods == {
        "rise": ComponentConfig("rise", {"num_masks": 32}),
        "mine": ComponentConfig("rise", {"num_masks": 64}),
        "ours": ComponentConfig("ours"),
    }
    assert evaluate.checks == {"mine": ComponentConfig("roar", {"seeds": 1})}
    assert {"mine", "ours", "rise", "all"} <= set(choices(folder)["method"])
    with pytest.raises(UserError, match="method=mein: unknown, did you mean mine"):
        compose(["method=[mein]"], folder)


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
    for words in commands(sweep):
        runs = planned(*words, base=[])
        assert runs[-1].stage.name == sweep["parameters"]["stage"]["value"]
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
