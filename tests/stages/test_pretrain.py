"""The pretrain stage: a run of its own, from whose encoder the classifier starts."""

import json
import signal
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from fastshap_lab.config import AugmentConfig, OptimConfig, TrainingConfig
from fastshap_lab.errors import Interrupted, UserError
from fastshap_lab.models import MaskedAutoencoder, build_classifier
from fastshap_lab.stages import classifier, pretrain
from fastshap_lab.training.pretrain import PretrainTraining
from tests import small
from tests.interruptions import assert_same_result, signal_at, stop_and_go_on
from tests.small_runs import PRETRAIN, configured, executed, planned


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    (run,) = executed(f"runs_dir={folder}", base=PRETRAIN)
    return folder, run


def test_the_result_is_an_encoder_its_error_and_a_figure(pretrained):
    folder, run = pretrained
    assert planned(f"runs_dir={folder}", base=PRETRAIN)[0].action == "reuse"
    assert run.measures().keys() == {"test/loss"}
    assert pd.read_csv(run.folder / "metrics.csv").columns.tolist() == ["epoch", "lr", "train/loss", "val/loss"]
    assert (run.folder / "figures" / "reconstructions.png").stat().st_size > 10_000
    assert json.loads((run.model / "config.json").read_text())["kind"] == "encoder"
    weights = load_file(run.model / "model.safetensors")
    assert "network.pos_embed" in weights
    assert not [name for name in weights if "head" in name or not name.startswith("network.")]


def test_the_classifier_starts_from_its_weights_with_a_head_of_its_own(pretrained, monkeypatch):
    folder, run = pretrained
    monkeypatch.setattr(classifier, "fit_run", lambda *_: None)
    encoder, trained = executed(f"runs_dir={folder}", "stage=classifier", base=PRETRAIN)
    assert (encoder.folder, trained.parents["pretrain"]) == (run.folder, encoder)
    learned, weights = (load_file(one.model / "model.safetensors") for one in (run, trained))
    assert weights.keys() - learned.keys() == {"network.head.weight", "network.head.bias"}
    assert all(torch.equal(weights[name], tensor) for name, tensor in learned.items())


def test_a_fingerprint_follows_from_what_changes_the_encoder(tmp_path):
    words = (f"runs_dir={tmp_path}", "stage=classifier")
    tuned = ["classifier.label_smoothing=0.2", "classifier.optim.lr=1e-2"]
    before, fine, other = (
        [run.fingerprint for run in planned(*words, *more, base=PRETRAIN)]
        for more in ([], tuned, ["classifier.pretrain.params.decoder_width=24"])
    )
    assert (fine[0] == before[0], fine[1] == before[1]) == (True, False)
    assert not set(other) & set(before)
    whole = configured(base=PRETRAIN)
    config = whole.classifier

    def settings(**changes: Any) -> dict[str, Any]:
        return pretrain.settings(replace(whole, classifier=replace(config, **changes)), "of the data")

    assert settings(epochs=7, teacher="x", label_smoothing=0.5) == settings()
    for change in (
        {"pretrain": replace(config.pretrain, epochs=7)},
        {"pretrain": replace(config.pretrain, optim=OptimConfig())},
        {"pretrain": replace(config.pretrain, augment=AugmentConfig())},
        {"params": {**config.params, "mlp_width": 12}},
        {"name": "timm"},
        {"mean": [0.5, 0.5, 0.5]},
    ):
        assert settings(**change) != settings(), change


def test_validation_masks_stay_and_training_masks_change(monkeypatch):
    encoder = build_classifier(**small.network("vit", num_classes=0))
    training = PretrainTraining(MaskedAutoencoder(encoder, decoder_width=12), TrainingConfig(optim=OptimConfig()), 0)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(training.network, "loss", lambda image, order: seen.append(order) or image.sum((1, 2, 3)))
    monkeypatch.setattr(PretrainTraining, "log_epoch", lambda *_: None)
    batch = {"image": small.images(2)}
    for epoch in (0, 1):
        monkeypatch.setattr(PretrainTraining, "current_epoch", epoch)
        for step in (training.training_step, training.validation_step):
            for batch_idx in (0, 1):
                step(batch, batch_idx)
    assert all(torch.equal(seen[k], seen[k + 4]) for k in (2, 3))
    different = [0, 1, 2, 3, 4, 5]
    assert not any(torch.equal(seen[k], seen[other]) for k in different for other in different if k < other)


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [(PretrainTraining, "training_step", 5), (PretrainTraining, "validation_step", 3), (pretrain, "save_model", 1)],
)
def test_a_killed_pretraining_goes_on_to_the_same_end(tmp_path, monkeypatch, pretrained, owner, name, call):
    resumed = stop_and_go_on(monkeypatch, owner, name, call, f"runs_dir={tmp_path}", base=PRETRAIN)
    assert_same_result(pretrained[1].folder, resumed)


def test_an_interrupted_pretraining_goes_on_to_the_same_end(tmp_path, monkeypatch, pretrained):
    with monkeypatch.context() as patch:
        signal_at(patch, PretrainTraining, "training_step", 5, signal.SIGTERM)
        with pytest.raises(Interrupted, match=r"goes on from step 5 of the pretrain$"):
            executed(f"runs_dir={tmp_path}", base=PRETRAIN)
    assert_same_result(pretrained[1].folder, executed(f"runs_dir={tmp_path}", base=PRETRAIN)[0].folder)


def test_an_infinite_loss_names_the_key_to_change(tmp_path, monkeypatch):
    loss = MaskedAutoencoder.loss
    monkeypatch.setattr(MaskedAutoencoder, "loss", lambda *inputs: loss(*inputs) * float("inf"))
    with pytest.raises(UserError, match=r"^classifier.pretrain: the loss .* lower classifier.pretrain.optim.lr or set"):
        executed(f"runs_dir={tmp_path}", base=PRETRAIN)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["network@classifier=resnet_slim"], "classifier.pretrain.name=mae: ResNet is no plain vision transformer"),
        (["classifier.pretrain.name=mea"], r"classifier.pretrain.name=mea: unknown, did you mean mae\?"),
        (["classifier.pretrain.params.decoder_depth=0"], "classifier.pretrain.params.decoder_depth=0: must be greater"),
        (["classifier.pretrain.optim.name=lion"], "classifier.pretrain.optim.name=lion: unknown"),
        (["classifier.pretrain=null"], "stage=pretrain: this classifier has no pretraining"),
        (["classifier.weights=pyproject.toml"], "classifier.weights=pyproject.toml: would replace the weights"),
    ],
)
def test_what_does_not_go_together_is_refused_in_the_plan(overrides, line):
    base = [
        word for word in PRETRAIN if not (overrides[0].startswith("network") and word.startswith("classifier.params"))
    ]
    with pytest.raises(UserError, match=f"^{line}"):
        planned(*overrides, base=base)
