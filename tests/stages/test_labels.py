"""Labels: made once, block by block, from the images that are kept; and explainers that learn from them."""

import shutil

import pandas as pd
import pytest
import torch
from rich.console import Console

from fastshap_lab.errors import UserError
from fastshap_lab.inference import load_explainer, load_surrogate
from fastshap_lab.models.freezing import frozen_copy
from fastshap_lab.runs import store
from fastshap_lab.runs.execute import execute
from fastshap_lab.shapley import Refinement, exact_shapley_values, pair_regression_loss
from fastshap_lab.stages.labels import load_labels
from tests.interruptions import Killed, kill_at
from tests.parts import first
from tests.small_runs import executed, planned

CPU = torch.device("cpu")
COPIES = ["explainer.labels={evaluations: 8, copies: 2, augment: {rotation: 0.3}}"]


def test_they_are_the_games_values_of_the_images_that_are_kept(tmp_path):
    *_, surrogate, run = executed("stage=labels", *COPIES, f"runs_dir={tmp_path}")
    labels = load_labels(run, CPU)
    images, game = labels.images.images.float() / 255, frozen_copy(load_surrogate(surrogate.model)).game()
    assert len(images) == len(labels.differences) == 3 * 48
    coalitions = labels.coalitions[labels.block]
    expected = game.values(images, coalitions) - game.values(images, ~coalitions)
    torch.testing.assert_close(labels.differences.float(), expected, rtol=1e-3, atol=1e-4)  # kept in half precision
    torch.testing.assert_close(labels.total, game.grand(images) - game.null(images))
    torch.testing.assert_close(labels.weights.mean(dim=1), torch.ones(len(labels.weights)))
    originals = {image.numpy().tobytes() for image in run.data.dataset("train").images}
    assert {image.numpy().tobytes() for image in labels.images.images[:48]} == originals
    assert not {image.numpy().tobytes() for image in labels.images.images[48:]} & originals
    assert run.measures()["passes"] == 3 * 48 * 9


def test_blocks_have_designs_of_their_own(tmp_path):
    settings = ["data.grid=[4,4]", "explainer.labels.evaluations=32", f"runs_dir={tmp_path}"]
    labels = load_labels(executed("stage=labels", *settings)[-1], CPU)
    assert labels.coalitions.shape == (2, 16, 16)
    assert labels.block.bincount().tolist() == [32, 16]
    assert not torch.equal(*labels.coalitions)


def test_all_coalitions_make_the_exact_values_the_best(tmp_path):
    settings = ["explainer.labels.evaluations=14", f"runs_dir={tmp_path}"]
    *_, surrogate, run = executed("stage=labels", *settings)
    labels = load_labels(run, CPU)
    exact = exact_shapley_values(
        frozen_copy(load_surrogate(surrogate.model)).game(), labels.images.images.float() / 255
    )
    phi = exact.float().requires_grad_()
    shared = phi - (phi.sum(dim=1) - labels.total).unsqueeze(1) / 4
    loss = pair_regression_loss(
        shared, labels.coalitions[labels.block], labels.differences.float(), labels.weights[labels.block]
    )
    (gradient,) = torch.autograd.grad(loss, phi)
    (scale,) = torch.autograd.grad(
        pair_regression_loss(
            phi + 0.01 * torch.randn(phi.shape, generator=torch.Generator().manual_seed(0)),
            labels.coalitions[labels.block],
            labels.differences.float(),
            labels.weights[labels.block],
        ),
        phi,
    )
    assert gradient.norm() < 0.02 * scale.norm()


@pytest.mark.parametrize("call", first(1, [2, 1, 3]))
def test_interrupted_they_go_on_where_they_stopped(tmp_path, monkeypatch, call):
    settings = ["stage=labels", *COPIES]
    whole = executed(*settings, f"runs_dir={tmp_path / 'a'}")[-1]
    with monkeypatch.context() as patch:
        kill_at(patch, store, "write_tensors", call)
        with pytest.raises(Killed):
            executed(*settings, f"runs_dir={tmp_path / 'b'}")
    run = planned(*settings, f"runs_dir={tmp_path / 'b'}")[-1]
    made = sorted((run.folder / "labels").glob("*.safetensors"))
    assert len(made) == call - 1
    times = [path.stat().st_mtime_ns for path in made]
    execute([run], Console(quiet=True))
    assert times == [path.stat().st_mtime_ns for path in made]  # not made again
    for path in sorted((whole.folder / "labels").iterdir()):
        assert (run.folder / "labels" / path.name).read_bytes() == path.read_bytes()


def test_a_damaged_file_is_made_again(tmp_path):
    settings = ["stage=labels", *COPIES, f"runs_dir={tmp_path}"]
    run = executed(*settings)[-1]
    path = min((run.folder / "labels").iterdir())
    content = path.read_bytes()
    path.write_bytes(content[:100])
    (run.folder / "run.json").write_text((run.folder / "run.json").read_text().replace("finished", "interrupted"))
    executed(*settings)
    assert path.read_bytes() == content


@pytest.mark.parametrize("damage", first(1, ["flipped", "another's", "cut short"]))
def test_labels_that_were_changed_since_are_asked_for_again(tmp_path, damage):
    settings = [*COPIES, "explainer.epochs=1", f"runs_dir={tmp_path}"]
    *_, run, explainer = executed("stage=explainer", *settings)
    before = {path: path.read_bytes() for path in (run.folder / "labels").iterdir()}
    first, second = sorted(before)[:2]
    place = len(before[first]) - 5
    flipped = before[first][:place] + bytes([before[first][place] ^ 64]) + before[first][place + 1 :]
    first.write_bytes({"flipped": flipped, "another's": before[second], "cut short": before[first][:-1]}[damage])
    assert run.action == "reuse"  # they are not read for a plan
    weights = (explainer.model / "model.safetensors").read_bytes()
    shutil.rmtree(explainer.folder)
    executed("stage=explainer", *settings)
    assert (explainer.model / "model.safetensors").read_bytes() == weights
    assert {path: path.read_bytes() for path in before} == before


def test_two_explainers_share_labels_and_the_fastshap_loss_needs_none(tmp_path):
    first = executed("stage=explainer", f"runs_dir={tmp_path}")
    assert [run.stage.name for run in first] == ["classifier", "surrogate", "labels", "explainer"]
    second = executed("stage=explainer", "explainer.optim.lr=3e-3", f"runs_dir={tmp_path}")
    assert second[2].folder == first[2].folder
    assert second[3].folder != first[3].folder
    online = executed("stage=explainer", "explainer.loss=fastshap", f"runs_dir={tmp_path}")
    assert [run.stage.name for run in online] == ["classifier", "surrogate", "explainer"]


@pytest.mark.parametrize("loss", ["labels", "fastshap"])
def test_an_explainer_learns_and_knows_how_well(tmp_path, loss):
    longer = ["explainer.epochs=25", "explainer.optim.lr=2e-2", "surrogate.epochs=12", "surrogate.optim.lr=1e-2"]
    settings = [f"explainer.loss={loss}", "explainer.labels.evaluations=14", "explainer.monitor=shapley_error"]
    run = executed("stage=explainer", *longer, *settings, "references.val=24", f"runs_dir={tmp_path}")[-1]
    history = pd.read_csv(run.folder / "metrics.csv")
    assert history["val/shapley_r2"].max() > 0.3
    assert history["val/shapley_r2"].max() > history["val/shapley_r2"].iloc[0]
    assert history["val/shapley_error"].tolist() == pytest.approx((1 - history["val/shapley_r2"]).tolist())
    # The exported network is that of the best epoch by this measure.
    val = run.data.dataset("val")
    explainer = load_explainer(run.model)
    image = val.images.float() / 255
    exact = exact_shapley_values(explainer.game(), image)
    with torch.no_grad():
        error = (explainer(image) - exact).square().sum() / (exact - exact.mean()).square().sum()
    assert history["val/shapley_error"].min() == pytest.approx(error.item(), rel=1e-3)


def test_without_references_nothing_is_calibrated(tmp_path):
    with pytest.raises(UserError, match=r"explainer.monitor=shapley_error: references.val must be at least 1"):
        planned("stage=explainer", "references.val=0", "explainer.monitor=shapley_error")
    run = executed("stage=explainer", "references.val=0", f"runs_dir={tmp_path}")[-1]
    assert "val/shapley_r2" not in pd.read_csv(run.folder / "metrics.csv")
    explainer = load_explainer(run.model)
    assert explainer.refinement == Refinement()
    assert explainer.explain(run.data.dataset("test").images[:1], refine=4).stderr.isfinite().all()


def test_labels_do_not_tell_what_values_add_up_to():
    with pytest.raises(UserError, match=r"explainer.normalization=none: labels do not determine the sum"):
        planned("stage=explainer", "explainer.normalization=none")
    planned("stage=explainer", "explainer.normalization=none", "explainer.efficiency_penalty=0.1")
    planned("stage=explainer", "explainer.normalization=none", "explainer.loss=fastshap")
