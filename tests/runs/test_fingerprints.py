"""Fingerprints and folders of runs stay what they were: finished runs of earlier versions are found again."""

import dataclasses
import json
from pathlib import Path

import pytest

from fastshap_lab.choices import CONFIGS
from fastshap_lab.config import Config, DataConfig
from fastshap_lab.data import ImageDataModule
from fastshap_lab.files import write_atomically
from fastshap_lab.runs.plan import pipelines_of, runs_of
from fastshap_lab.stages import STAGES
from tests.small_runs import configured

KNOWN = Path(__file__).parent / "fingerprints.json"
PIPELINES = (
    "{A: {classifier: resnet_slim, surrogate: resnet_slim, explainer: unet_slim}, B: {classifier: vit_slim}, "
    "C: {classifier: mae_vit_small, surrogate: vit_slim, overrides: ['seed=1']}}"
)
CASES = {
    "plain": [],
    "named": ["name=mine"],
    "pretrained": ["classifier=mae_vit_small"],
    "FastSHAP": ["explainer.loss=fastshap"],
    "pipelines": [f"evaluate.pipelines={PIPELINES}"],
    "pipelines of a stage": [f"evaluate.pipelines={PIPELINES}", "stage=surrogate"],
    "weights": ["classifier.weights=weights/resnet50.safetensors", "classifier.epochs=0"],
    "precision": ["trainer.precision=bf16-mixed", "seed=3"],
    "references": ["references={test: 3, kriging_tolerance: 0.05}", "metric=all", "method=all"],
    "pretrain alone": ["classifier=mae_vit_small", "stage=pretrain"],
    **{
        f"stage={stage}": [f"stage={stage}"] for stage in ("classifier", "surrogate", "labels", "explainer", "evaluate")
    },
    "labels of FastSHAP": ["stage=labels", "explainer.loss=fastshap"],
    **{path.stem: [f"experiment={path.stem}"] for path in sorted((CONFIGS / "experiment").glob("*.yaml"))},
    "cifar10_methods": ["experiment=cifar10_methods", "vars.teacher=teacher"],
}
WEIGHTS = (
    *("vit_base_patch16_224", "vit_small_patch16_224", "deit_base_patch16_224", "deit_tiny_patch16_224"),
    *("swin_base_patch4_window7_224", "resnet50"),
)


@pytest.mark.parametrize("case", CASES)
def test_fingerprints_and_folders_are_as_they_were(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ImageDataModule, "digest", lambda self: "of the data")
    write_atomically(tmp_path / "teacher" / "config.json", '{"kind": "classifier"}')
    for name in WEIGHTS:
        write_atomically(tmp_path / "weights" / f"{name}.safetensors", name)

    def compose(choices: dict[str, str], further: list[str]) -> Config:
        words = [*[f"{group}={choice}" for group, choice in choices.items()], *further, *CASES[case]]
        config = configured(*words, base=[])
        rows, columns = config.data.grid
        # Images that need no files, of a size that all grids divide.
        data = DataConfig("synthetic", {"image_size": [8 * rows, 8 * columns]}, config.data.grid)
        return dataclasses.replace(config, data=data)

    config = compose({}, [])
    runs = runs_of(pipelines_of(config, compose, STAGES), config, STAGES)
    found = {run.folder.relative_to(config.runs_dir).as_posix(): run.fingerprint for run in runs}
    assert found == json.loads(KNOWN.read_text())[case]
