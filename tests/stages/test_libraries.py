"""Classifiers of libraries and of one's own code: explained as they are, trained further, loaded elsewhere."""

import json
import math
import sys
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision import models

from fastshap_lab.cli import main
from fastshap_lab.errors import UserError
from fastshap_lab.inference import load_classifier, load_explainer, load_surrogate
from tests.small_runs import RESNET, TINY, UNET, executed, planned

SIZE = 32
OTHERS = [word for word in TINY if not word.startswith(("data", "classifier."))]


def pictures(root: Path, *names: str, count: int = 8) -> list[str]:
    """Write pictures of some classes, and return the configuration that reads them."""
    for place, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for index in range(count):
            colour = (40 * place + 10, 20 * index, 90)
            Image.new("RGB", (SIZE, SIZE), colour).save(root / name / f"{index}.png")
    fractions = ["data.params.val_fraction=0.25", "data.params.test_fraction=0.25"]
    return ["data=folder", f"data.params.path={root}", f"data.params.image_size={SIZE}", "data.grid=[2,2]", *fractions]


def tiny(library: str, model: str, *more: str) -> list[str]:
    return [*OTHERS, f"classifier={library}", f"classifier.params.model={model}", "classifier.epochs=0", *more]


def described(run) -> dict:
    return json.loads((run.model / "config.json").read_text())


def cached_hub(monkeypatch, folder: Path, name: str, state: dict[str, torch.Tensor]) -> None:
    """Let a file stand where the hub's would be after it was downloaded, and nothing else be had."""
    place = folder / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0123")
    (place / "snapshots" / "0123").mkdir(parents=True)
    save_file(state, place / "snapshots" / "0123" / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("source", ["weights", "timm's own", "torchvision's own"])
def test_a_pretrained_network_is_explained_as_it_is(source, tmp_path, monkeypatch):
    data = pictures(tmp_path / "photos", "goldfish", "Egyptian_cat", "crane", "my dog")
    torch.manual_seed(0)
    if source == "torchvision's own":
        model = "mobilenet_v3_small"
        state = models.get_model(model, weights=None).state_dict()
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        place = tmp_path / "hub" / "checkpoints" / models.get_model_weights(model).DEFAULT.url.rpartition("/")[2]
        place.parent.mkdir(parents=True)
        torch.save(state, place)
        words = tiny("torchvision", model, "classifier.params.pretrained=true")
    else:
        state = timm.create_model("test_resnet").state_dict()
        words = tiny("timm", "test_resnet", "classifier.params.pretrained=true")
        if source == "weights":
            save_file(state, tmp_path / "given.safetensors")
            words = [*tiny("timm", "test_resnet"), f"classifier.weights={tmp_path / 'given.safetensors'}"]
        else:
            cached_hub(monkeypatch, tmp_path / "hub", "timm/test_resnet.r160_in1k", state)
    (run,) = executed(*data, "stage=classifier", f"runs_dir={tmp_path / 'runs'}", base=words)
    found = described(run)
    own = [0.485, 0.456, 0.406] if "torchvision" in source else list(timm.get_pretrained_cfg("test_resnet").mean)
    assert (found["network"]["mean"], len(found["class_names"]), found["class_names"][1]) == (own, 1000, "goldfish")
    assert "pretrained" not in found["network"]["params"]  # a stranger's folder must not make a library fetch anything
    weights = load_file(run.model / "model.safetensors")
    assert all(torch.equal(weights[f"network.{name}"], value) for name, value in state.items())
    labels = set(run.data.dataset("train").labels.tolist())
    # Two of ImageNet's classes are called crane, and none is anybody's dog. torchvision calls one of them "crane bird".
    assert labels == {1, 285, -100} | ({517, 134} & labels)
    assert math.isnan(run.measures()["test/accuracy"])
    (same,) = planned(*data, "stage=classifier", f"runs_dir={tmp_path / 'runs'}", base=words)
    assert same.action == "reuse"


def test_weights_have_the_pixels_of_their_library_unless_told_otherwise(tmp_path):
    data = pictures(tmp_path / "photos", "a", "b")
    save_file(timm.create_model("test_resnet", num_classes=2).state_dict(), tmp_path / "two.safetensors")
    words = [*tiny("timm", "test_resnet"), f"classifier.weights={tmp_path / 'two.safetensors'}", "stage=classifier"]
    told_so = "classifier.mean=[0.1,0.2,0.3]", "classifier.std=[0.5,0.5,0.5]"
    (run,) = executed(*data, f"runs_dir={tmp_path}", base=words)
    (told,) = executed(*data, f"runs_dir={tmp_path}", *told_so, base=words)
    assert described(run)["network"]["mean"] == list(timm.get_pretrained_cfg("test_resnet").mean)
    assert described(told)["network"]["mean"] == [0.1, 0.2, 0.3]
    assert run.fingerprint != told.fingerprint
    assert described(run)["class_names"] == ["a", "b"]  # as many as the weights have


def test_pictures_without_labels_take_the_classes_of_a_pretrained_network(tmp_path):
    pictures(tmp_path / "photos", "a", "b")
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "given.safetensors")
    data = ["data=folder", f"data.params.path={tmp_path / 'photos'}", "data.params.classes=none", "data.grid=[2,2]"]
    words = [*tiny("timm", "test_resnet"), "stage=classifier", f"data.params.image_size={SIZE}"]
    (run,) = planned(*data, f"classifier.weights={tmp_path / 'given.safetensors'}", base=words)
    assert run.data.num_classes == 1000
    assert set(run.data.dataset("test").labels.tolist()) == {-100}
    with pytest.raises(UserError, match=r"^data: folder has no labels here; choose a classifier that is used as it is"):
        planned(*data, "classifier.epochs=1", base=words)


def test_frozen_features_stay_as_they_are_and_the_head_learns(tmp_path):
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=3)
    state = network.state_dict()
    save_file(state, tmp_path / "given.safetensors")
    given = [f"classifier.weights={tmp_path / 'given.safetensors'}", "classifier.freeze=true", "stage=classifier"]
    words = [*TINY, "classifier=timm", "classifier.params.model=test_resnet", *given, "classifier.epochs=2"]
    (run,) = executed(f"runs_dir={tmp_path}", base=words)
    found = load_file(run.model / "model.safetensors")
    changed = {name for name, value in state.items() if not torch.equal(found[f"network.{name}"], value)}
    assert changed == {"fc.weight", "fc.bias"}  # neither weights before them nor the statistics of BatchNorm
    with pytest.raises(UserError, match=r"^classifier.freeze=true: only trained features can be frozen"):
        planned("classifier.weights=null", base=words)
    with pytest.raises(UserError, match=r"^classifier.freeze=true: with classifier.epochs=0 nothing is trained"):
        planned("classifier.epochs=0", base=words)


def test_a_backbone_without_a_head_gets_one_and_its_positions_are_resampled(tmp_path):
    backbone = timm.create_model("test_vit", num_classes=0, img_size=48)
    save_file({name: value.half() for name, value in backbone.state_dict().items()}, tmp_path / "b.safetensors")
    given = [f"classifier.weights={tmp_path / 'b.safetensors'}", "classifier.freeze=true", "stage=classifier"]
    words = [*TINY, "classifier=timm", "classifier.params.model=test_vit", *given]
    with pytest.raises(UserError, match=r"b.safetensors was trained on other classes, so its head"):
        planned("classifier.epochs=0", "classifier.freeze=false", base=words)
    (run,) = executed("classifier.epochs=1", f"runs_dir={tmp_path}", base=words)
    found = load_file(run.model / "model.safetensors")
    assert found["network.head.weight"].shape[0] == 3
    assert found["network.pos_embed"].shape[1] < backbone.pos_embed.shape[1]
    kept = "network.blocks.0.attn.qkv.weight"
    torch.testing.assert_close(found[kept], backbone.state_dict()[kept.removeprefix("network.")].half().float())


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "classifier=timm classifier.params.model=test_vitt classifier.params.pretrained=true",
            "did you mean test_vit",
        ),
        ("classifier=torchvision classifier.params.model=resnet81", "no model of torchvision .* did you mean resnet18"),
        ("classifier=torchvision classifier.params.model=resnet18 classifier.params.pretrained=1", "true or false"),
        ("classifier.params.pretrained=true", "classifier.params.pretrained=True: must be true or false"),
        ("surrogate=timm surrogate.params.model=test_vit surrogate.params.pretrained=true", "only a classifier can be"),
        (
            "classifier=torchvision classifier.params.model=resnet18 classifier.epochs=0",
            "an untrained classifier needs weights; name a",
        ),
        ("classifier=import classifier.path=nowhere", "classifier.path=nowhere: must have the form"),
        ("classifier=import classifier.path=nowhere:make", "classifier.path=nowhere:make: ModuleNotFoundError: No mod"),
        ("classifier=import classifier.path=math:sqrt", "classifier.path=math:sqrt: TypeError: "),
        ("classifier=import classifier.path=torch:Generator", "returns a Generator, must return a torch.nn.Module"),
    ],
)
def test_what_cannot_be_is_one_line_before_anything_is_made(words, line):
    with pytest.raises(UserError, match=line):
        planned(*words.split(), base=TINY)


OWN = """
import torch
from torch import nn

class Answer:
    def __init__(self, logits):
        self.logits = logits

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3, stride=2)
        self.head = nn.Linear(4 * 7 * 7, 3)

    def forward(self, pixels):
        return Answer(self.head(torch.relu(self.features(pixels)).view(len(pixels), -1)))

def make():
    return Net()
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return the name of a module of one's own in the working directory."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def in_process(monkeypatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    try:
        main(words)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_ones_own_code_is_explained_and_its_explainer_loads_without_it(own, tmp_path, monkeypatch):
    path = f"{own}:make"
    pixels = ["classifier.mean=[0.5,0.5,0.5]", "classifier.std=[0.5,0.5,0.5]"]
    words = [*TINY, *RESNET[1:], *UNET, "classifier=import", f"classifier.path={path}", "classifier.epochs=0", *pixels]
    words = [word for word in words if not word.startswith("classifier.epochs=3")]
    assert in_process(monkeypatch, *words, "stage=explainer", "debug=true") == 0
    folders = {stage: next(Path("runs", stage).glob("[!.]*")) for stage in ("classifier", "surrogate", "explainer")}
    found = json.loads((folders["classifier"] / "model" / "config.json").read_text())
    assert (found["network"]["name"], found["network"]["params"]) == ("import", {"path": path})

    from fastshap_lab.models import foreign  # a process in which nobody has named that code

    monkeypatch.setattr(foreign, "_handed_over", {})
    image = torch.rand(2, 3, 16, 16)
    explainer = load_explainer(folders["explainer"])
    assert explainer.explain(image).source == "surrogate"
    module = sys.modules[own].make()
    given = load_explainer(folders["explainer"], classifier=module).explain(image)
    assert given.source == "classifier"
    with pytest.raises(
        UserError, match=r"config.json: its network is your own code, own_.*:make, which is not imported"
    ):
        load_classifier(folders["classifier"])
    classifier = load_classifier(folders["classifier"], module=module)
    torch.testing.assert_close(classifier(image).softmax(dim=-1), given.probabilities)
    assert not torch.equal(classifier.network.model.head.weight, module.head.weight)  # the caller's stays as it is
    with pytest.raises(UserError, match=r"does not fit the model in config.json"):
        load_classifier(folders["classifier"], module=nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"the network is an entry of the package, resnet, and built here"):
        load_surrogate(folders["surrogate"], module=module)


def test_a_surrogate_of_ones_own_code_loads_with_the_callers(own, tmp_path, monkeypatch):
    path = f"{own}:make"
    pixels = ["classifier.mean=[0.5,0.5,0.5]", "classifier.std=[0.5,0.5,0.5]"]
    same = ["classifier=import", f"classifier.path={path}", "surrogate=import", f"surrogate.params.path={path}"]
    words = [
        *TINY,
        *UNET,
        *same,
        *pixels,
        "classifier.epochs=0",
        "stage=explainer",
        "explainer.bundle_classifier=false",
    ]
    words = [word for word in words if word != "classifier.epochs=3"]
    assert in_process(monkeypatch, *words) == 0
    from fastshap_lab.models import foreign

    monkeypatch.setattr(foreign, "_handed_over", {})
    folder = next(Path("runs", "explainer").glob("[!.]*"))
    with pytest.raises(UserError, match=r"its network is your own code, .*load_explainer\(folder, surrogate=…\)"):
        load_explainer(folder)
    explainer = load_explainer(folder, surrogate=sys.modules[own].make())
    assert explainer.explain(torch.rand(1, 3, 16, 16)).values.shape == (1, 3, 2, 2)


@pytest.mark.parametrize("place", ["an experiment", "a pipeline of one", "a sweep"])
def test_code_is_imported_for_who_names_it_on_the_command_line_alone(own, place, tmp_path, monkeypatch, capsys):
    (tmp_path / f"{own}.py").write_text("raise SystemExit('imported')\n")
    path, folder = f"{own}:make", tmp_path / "mine" / "experiment"
    folder.mkdir(parents=True)
    override = {"an experiment": f"classifier: {{path: '{path}'}}"}.get(place, "")
    if place == "a pipeline of one":
        overrides = f"[classifier.path='{path}']"
        override = f"evaluate: {{pipelines: {{a: {{classifier: import, overrides: {overrides}}}}}}}"
    (folder / "theirs.yaml").write_text(f"# @package _global_\n{override or 'seed: 1'}\n")
    words = ["--config-dir", str(tmp_path / "mine"), "+experiment=theirs"]
    if place != "a pipeline of one":
        words.append("classifier=import")
    if place == "a sweep":
        words.append(f"classifier.path={path}")
        monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    assert in_process(monkeypatch, *words) == 2
    said = capsys.readouterr().err
    expected = "a sweep must not import" if place == "a sweep" else "code is imported only if the command line names it"
    assert f"error: classifier.path={path}: " in said
    assert expected in said


def test_a_model_folder_makes_nobody_import_anything(own, tmp_path):
    (tmp_path / f"{own}.py").write_text("raise SystemExit('imported')\n")
    folder = tmp_path / "model"
    folder.mkdir()
    network = {"name": "import", "params": {"path": f"{own}:make"}, "image_size": [16, 16], "num_classes": 3}
    network |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    (folder / "config.json").write_text(
        json.dumps({"kind": "classifier", "network": network, "class_names": ["a", "b", "c"]})
    )
    save_file({"x": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(UserError, match="which is not imported from a folder"):
        load_classifier(folder)
    assert own not in sys.modules
