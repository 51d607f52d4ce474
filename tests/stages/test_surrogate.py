"""The surrogate's training: which divergence it minimizes, and what it starts from."""

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from fastshap_lab.config import SurrogateConfig
from fastshap_lab.shapley import reverse_surrogate_kl, surrogate_kl
from fastshap_lab.training.surrogate import SurrogateTraining
from tests import small
from tests.small_runs import TINY, UNET, executed


@pytest.mark.parametrize(("loss", "divergence"), [("kl", surrogate_kl), ("reverse_kl", reverse_surrogate_kl)])
def test_the_chosen_divergence_is_minimized_and_the_same_one_is_logged(loss, divergence, monkeypatch):
    classifier, surrogate = small.classifier("resnet", seed=1), small.surrogate("mask_channel")
    config = SurrogateConfig(name="resnet", masking="mask_channel", loss=loss, num_coalitions=3)
    training, logged, asked = SurrogateTraining(surrogate, classifier, config, seed=0), {}, []
    monkeypatch.setattr(training, "log_epoch", lambda values, _: logged.update(values))
    surrogate.register_forward_hook(lambda _, given, logits: asked.append((given[1], logits)))
    image = small.images(4)
    given = training.training_step({"image": image}, 0)
    training.validation_step({"image": image}, 0)
    for split, (_, logits) in zip(("train", "val"), asked, strict=True):
        torch.testing.assert_close(logged[f"{split}/kl"], surrogate_kl(classifier(image), logits).mean())
    torch.testing.assert_close(given, divergence(classifier(image), asked[0][1]).mean())
    assert training.monitor == "val/kl"


def test_a_transformer_with_smaller_patches_starts_from_the_classifier(tmp_path):
    small_vit = "params={width: 12, depth: 1, num_heads: 2, mlp_width: 16, patch_size: %d}"
    settings = [
        *("classifier=vit", "surrogate=vit", "stage=surrogate", f"runs_dir={tmp_path}"),
        *("classifier." + small_vit % 4, "surrogate." + small_vit % 2, "classifier.epochs=1", "surrogate.epochs=1"),
        *("surrogate.optim={lr: 1e-9, schedule: constant, warmup: 0.0}", "surrogate.loss=reverse_kl"),
    ]
    of_classifier, run = executed(*settings, base=[*TINY, *UNET])
    source, started = (load_file(one.model / "model.safetensors") for one in (of_classifier, run))
    name = "network.blocks.0.mlp.fc1.weight"
    torch.testing.assert_close(started[f"classifier.{name}"], source[name], rtol=0, atol=1e-6)
    name = "network.patch_embed.proj.weight"  # the sum over a patch's pixels is its answer to a colour
    torch.testing.assert_close(
        started[f"classifier.{name}"][:, :3].sum(dim=(2, 3)), source[name].sum(dim=(2, 3)), rtol=0, atol=1e-5
    )
    assert pd.read_csv(run.folder / "metrics.csv")["val/kl"].notna().all()
