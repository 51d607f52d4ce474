"""Classifiers that come with weights: a file of someone else's, or a model folder of an earlier run."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastshap_lab.errors import UserError
from fastshap_lab.stages import classifier
from tests.data.stand_ins import write_voc
from tests.small_runs import TINY, executed, planned

CLASSIFIER = ["stage=classifier"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run folder of a trained classifier of three classes."""
    (run,) = executed(*CLASSIFIER, f"runs_dir={tmp_path_factory.mktemp('runs')}")
    return run.folder


@pytest.fixture
def state(trained: Path) -> dict[str, torch.Tensor]:
    """Return its network's weights, named as timm names them."""
    weights = load_file(trained / "model" / "model.safetensors")
    return {name.removeprefix("network."): value for name, value in weights.items()}


def exported(tmp_path: Path, *overrides: str) -> dict[str, torch.Tensor]:
    (run,) = executed(*CLASSIFIER, f"runs_dir={tmp_path / 'runs'}", *overrides)
    return load_file(run.model / "model.safetensors")


@pytest.mark.parametrize("kind", ["safetensors", "state dict", "nested, from parallel training"])
def test_given_weights_are_explained_as_they_are_when_no_epoch_is_wanted(kind, state, tmp_path):
    path = tmp_path / ("given.safetensors" if kind == "safetensors" else "given.pt")
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "state dict":
        torch.save(state, path)
    else:
        torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in state.items()}}, path)
    found = exported(tmp_path, f"classifier.weights={path}", "classifier.epochs=0")
    assert found.keys() == {f"network.{name}" for name in state}
    assert all(torch.equal(found[f"network.{name}"], value) for name, value in state.items())


def test_given_weights_count_by_content_and_not_by_place(state, tmp_path):
    def fingerprint(path: Path) -> str:
        return planned(*CLASSIFIER, f"classifier.weights={path}")[0].fingerprint

    first, copy, other = (tmp_path / f"{name}.safetensors" for name in ("first", "copy", "other"))
    save_file(state, first)
    copy.write_bytes(first.read_bytes())
    save_file(state | {"fc.bias": state["fc.bias"] + 1}, other)
    assert fingerprint(first) == fingerprint(copy) != fingerprint(other)
    assert fingerprint(first) != planned(*CLASSIFIER)[0].fingerprint


def test_the_head_alone_is_replaced_where_classes_differ_and_then_wants_training(state, tmp_path):
    path = tmp_path / "other_classes.safetensors"
    head = {"fc.weight": torch.zeros(7, 8), "fc.bias": torch.zeros(7)}
    save_file(state | head, path)
    with pytest.raises(UserError, match=r"classifier.epochs=0: .*other classes, so its head is new"):
        planned(*CLASSIFIER, f"classifier.weights={path}", "classifier.epochs=0")
    found = exported(tmp_path, f"classifier.weights={path}", "classifier.epochs=1", "classifier.optim.lr=1e-9")
    assert found["network.fc.weight"].shape == (3, 8)
    torch.testing.assert_close(
        found["network.layer1.0.conv1.weight"], state["layer1.0.conv1.weight"], atol=1e-6, rtol=0
    )


class Malicious:
    def __reduce__(self):
        return (Path("owned").write_text, ("",))


def test_what_is_not_this_networks_weights_is_refused_before_anything_runs(state, tmp_path):
    contents = {
        "pickle.pt": ({"state_dict": Malicious()}, "not a file of weights"),
        "list.pt": ([1, 2], "not a state dict"),
        "missing.pt": ({name: state[name] for name in state if name != "conv1.weight"}, "conv1.weight is missing"),
        "shape.pt": (
            state | {"conv1.weight": torch.zeros(1)},
            r"conv1.weight has shape \(1,\), must be \(8, 3, 3, 3\)",
        ),
        "unknown.pt": (state | {"neck.weight": torch.zeros(1)}, "it has no neck.weight"),
    }
    for name, (content, line) in contents.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(UserError, match=rf"{name}: .*{line}"):
            planned(*CLASSIFIER, f"classifier.weights={tmp_path / name}")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08")
    with pytest.raises(UserError, match=r"cut.safetensors: not a file of weights"):
        planned(*CLASSIFIER, f"classifier.weights={tmp_path / 'cut.safetensors'}")
    with pytest.raises(UserError, match=r"classifier.weights=nowhere.pt: no such file"):
        planned(*CLASSIFIER, "classifier.weights=nowhere.pt")
    with pytest.raises(UserError, match=r"classifier.epochs=0: an untrained classifier needs weights"):
        planned(*CLASSIFIER, "classifier.epochs=0")


def test_a_model_folder_stands_where_a_classifier_would_be_trained(trained, tmp_path):
    given = ["classifier=checkpoint", f"classifier.path={trained / 'model'}", f"runs_dir={tmp_path}"]
    bare = [word for word in TINY if not word.startswith("classifier.")]
    base = [*bare, "surrogate.params.channels=[8,8,8,8]", "explainer.params.channels=[8,8]"]
    classifier, surrogate = executed("stage=surrogate", *given, base=base)
    assert (classifier.model / "model.safetensors").read_bytes() == (
        trained / "model" / "model.safetensors"
    ).read_bytes()
    assert surrogate.finished
    evaluation = executed(*given, base=base)[-1]
    assert (evaluation.folder / "report.html").is_file()
    assert not (evaluation.folder / "figures" / "curves-classifier.png").exists()
    with pytest.raises(UserError, match=r"classifier.path=.*: is for images of 16×16"):
        planned(*given, "data.params.image_size=32", base=base)
    with pytest.raises(UserError, match=r"classifier.path=.*: has 3 classes"):
        planned(*given, "data.params.num_classes=4", base=base)
    with pytest.raises(UserError, match=r"nowhere: no model folder"):
        planned("classifier=checkpoint", "classifier.path=nowhere", base=base)


def test_nothing_is_trained_on_images_without_labels(tmp_path):
    write_voc(tmp_path / "data", {"train": 12, "val": 6})
    data = [
        "data=voc",
        f"data.params.root={tmp_path / 'data'}",
        "data.params.classes=imagenet",
        "data.params.foreground=any",
        "data.params.image_size=16",
        "data.grid=[2,2]",
    ]
    run = planned(*data, f"runs_dir={tmp_path}", "stage=classifier", "classifier.epochs=1", base=[])[-1]
    with pytest.raises(UserError, match=r"^classifier.epochs=1: voc has images without labels; "):
        classifier.make(run)
