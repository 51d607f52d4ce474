"""An evaluation that asks for more computes what is new, and nothing that an earlier one has kept."""

from collections import Counter

import pytest

from fastshap_lab.attribution import METHODS, AttributionMethod
from fastshap_lab.evaluation import references
from fastshap_lab.evaluation.checks.randomization import Randomization
from fastshap_lab.evaluation.checks.roar import ROAR
from fastshap_lab.evaluation.metrics import ChosenMetric
from fastshap_lab.evaluation.sections import errors
from tests.small_runs import TINY, UNET, executed, planned

A = (
    "A: {classifier: resnet_slim, surrogate: resnet_slim, explainer: unet_slim, overrides: "
    "['classifier.params.channels=[8,8,8,8]', 'surrogate.params.channels=[8,8,8,8]']}"
)
B = "B: {classifier: vit_slim, overrides: ['classifier.params={width: 8, depth: 2, num_heads: 2, mlp_width: 8}']}"
BASE = [
    *TINY,
    *UNET,
    "surrogate.epochs=1",
    "explainer.epochs=1",
    "references.val=0",
    "evaluate={images: 6, images_shown: 2, bootstrap: 10}",
    "evaluate.checks={randomization: {name: randomization, params: {seeds: 1, images: 1}}, "
    "roar: {name: roar, params: {methods: [grad_cam], fractions: [0.5], seeds: 1, epochs: 1}}}",
]
METHODS_CHOSEN, METRICS_CHOSEN = "grad_cam,leave_one_out", "deletion,shapley_correlation"


def asked(
    *overrides: str, methods: str = METHODS_CHOSEN, metrics: str = METRICS_CHOSEN, pipelines: str = A
) -> list[str]:
    return [
        f"method=[{methods}]",
        f"metric=[{metrics}]",
        f"evaluate.pipelines={{{pipelines}}}",
        "evaluate.methods.leave_one_out.params.players=[2,2]",
        *overrides,
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    executed(f"runs_dir={folder}", *asked(), base=BASE)
    return folder


@pytest.fixture
def counted(monkeypatch) -> Counter:
    """Count what takes long: maps by the method's class, measures by metric and method, references, trainings, …"""
    counts: Counter = Counter()

    def spy(owner: object, name: str, label) -> None:
        original = getattr(owner, name)

        def spied(*given, **more):
            counts[label(*given)] += 1
            return original(*given, **more)

        monkeypatch.setattr(owner, name, spied)

    for name in ("attribute", "attribute_all", "attribute_classes"):
        spy(AttributionMethod, name, lambda method, *_: f"maps of {type(method).__name__}")
    spy(
        ChosenMetric,
        "_rows",
        lambda metric, batch, method, *_: f"{metric.name} of {method.name} on {batch.pipeline.name}",
    )
    spy(references, "shapley_values", lambda *_: "references")
    spy(errors, "_refined", lambda *_: "refinement")
    spy(
        Randomization,
        "_similarity",
        lambda check, _, pipeline, method, *__: f"similarity of {method.name} on {pipeline.name}",
    )
    spy(ROAR, "_trained_right", lambda *_: "trainings")
    return counts


SHOWN = [
    "evaluate.bootstrap=20",
    "evaluate.images_shown=3",
    r"evaluate.published={methods-deletion: {A\, grad_cam: {probability: 0.25}}}",
    "evaluate.checks={overlay: {name: segmentation_overlay}}",
    "evaluate.sections=[models,methods]",
]


@pytest.mark.parametrize(
    ("more", "new"),
    [
        (asked(*SHOWN), {}),
        *(pytest.param(asked(word), {}, marks=pytest.mark.extended) for word in SHOWN),
        (
            asked(metrics=f"{METRICS_CHOSEN},insertion"),
            {f"insertion of {name} on A" for name in ("explainer", "random", "grad_cam", "leave_one_out")},
        ),
        (
            asked(methods=f"{METHODS_CHOSEN},saliency"),
            {
                "maps of Saliency",
                "similarity of saliency on A",
                "deletion of saliency on A",
                "shapley_correlation of saliency on A",
            },
        ),
        (asked("references.test=3"), {"references", "refinement"} | {
            f"shapley_correlation of {name} on A" for name in ("explainer", "random", "grad_cam", "leave_one_out")
        }),
    ],
    ids=["shown", "bootstrap", "images_shown", "published", "figure", "sections", "metric", "method", "references"],
)  # fmt: skip
def test_only_what_is_new_is_computed(folder, counted, more, new):
    before = planned(f"runs_dir={folder}", *asked(), base=BASE)
    assert {run.action for run in before} == {"reuse"}
    executed(f"runs_dir={folder}", *more, base=BASE)
    expected = set(new)
    if "similarity of saliency on A" in expected:  # which explains the networks that are drawn
        assert counted.pop("maps of Saliency") > 1
        expected.remove("maps of Saliency")
    assert set(counted) == expected
    assert set(counted.values()) <= {1}


def test_another_pipeline_leaves_the_first_as_it_is(folder, counted):
    executed(f"runs_dir={folder}", *asked(pipelines=f"{A}, {B}"), base=BASE)
    assert not [label for label in counted if label.endswith("on A") or label in ("references", "refinement")]
    assert counted["deletion of grad_cam on B"] == 0  # which has no surrogate
    assert counted["similarity of grad_cam on B"] == 1
    assert counted["trainings"] == 4  # Sobel, Random and Grad-CAM, and nothing removed


def test_a_damaged_entry_is_made_again(folder, counted):
    for path in (folder / "store" / "references").iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    executed(f"runs_dir={folder}", *asked("evaluate.bootstrap=30"), base=BASE)
    assert counted == {"references": 1}


def test_all_methods_are_entries_of_one_table():
    assert {name for name, kind in METHODS.items() if kind.uncalled} == {"explainer", "random"}
