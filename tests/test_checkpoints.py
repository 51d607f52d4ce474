import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fastshap_lab import checkpoints
from fastshap_lab.checkpoints import fill, read_description, read_state, save_model
from fastshap_lab.errors import UserError
from fastshap_lab.inference import load_classifier, load_explainer, load_surrogate
from fastshap_lab.models import build_classifier
from tests import small

DESCRIPTION = {"kind": "classifier", "network": small.network("resnet"), "class_names": ["ä", "b", "c"]}


def saved(folder: Path, seed: int = 0) -> nn.Module:
    network = small.classifier("resnet", seed=seed)
    save_model(folder, network, DESCRIPTION)
    return network


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("kind", ["classifier", "surrogate", "explainer"])
def test_a_loaded_model_is_the_saved_one_bit_by_bit(kind, tmp_path):
    if kind == "classifier":
        module, loader, description = small.classifier("resnet"), load_classifier, DESCRIPTION
    elif kind == "surrogate":
        module, loader = small.surrogate("attention"), load_surrogate
        description = {"surrogate": {"classifier": small.network("vit"), "masking": "attention", "grid": [2, 3]}}
        description["class_names"] = ["a", "b", "c"]
    else:
        module, loader, description = small.explainer("vit"), load_explainer, small.explainer_description("vit")
    module = module.to(memory_format=torch.channels_last).train()
    save_model(tmp_path / "runs" / "model", module, description | {"kind": kind})
    assert contents(tmp_path / "runs" / "model").keys() == {"config.json", "model.safetensors"}
    torch.manual_seed(1)
    loaded = loader(tmp_path / "runs" / "model")
    assert loaded.state_dict().keys() == module.state_dict().keys()
    assert all(torch.equal(tensor, module.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert not any(part.training for part in loaded.modules())
    assert module.training


def test_saving_replaces_what_was_there_and_leaves_nothing_beside_it(tmp_path):
    saved(tmp_path / "model")
    (tmp_path / "model" / "stale").touch()
    newer = saved(tmp_path / "model", seed=1)
    assert torch.equal(load_classifier(tmp_path / "model").network.fc.weight, newer.network.fc.weight)
    assert contents(tmp_path / "model").keys() == {"config.json", "model.safetensors"}
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_save_that_fails_leaves_the_old_model_and_nothing_else(name, tmp_path, monkeypatch):
    saved(tmp_path / "model")
    before, write = contents(tmp_path / "model"), checkpoints.write_atomically

    def failing(path: Path, data: bytes | str) -> None:
        if path.name == name:
            raise OSError("No space left on device")
        write(path, data)

    monkeypatch.setattr(checkpoints, "write_atomically", failing)
    with pytest.raises(OSError, match="No space left"):
        saved(tmp_path / "model", seed=1)
    assert contents(tmp_path / "model") == before
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_a_model_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    saved(tmp_path / "model")
    before, replace = contents(tmp_path / "model"), Path.replace

    def failing(source: Path, target: Path) -> Path:
        if source.is_dir() and contents(source) != before:
            raise PermissionError("in use")
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(PermissionError, match="in use"):
        saved(tmp_path / "model", seed=1)
    assert contents(tmp_path / "model") == before
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def change_a_byte(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def swap_weights(folder: Path) -> None:
    saved(folder.parent / "other", seed=1)
    shutil.copy(folder.parent / "other" / "model.safetensors", folder)


def pickle_weights(folder: Path) -> None:
    torch.save({"weight": Trap(folder.parent / "unpickled")}, folder / "model.safetensors")


def pickle_weights_with_their_digest(folder: Path) -> None:
    pickle_weights(folder)
    digest = checkpoints.hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    edit(folder, weights_sha256=digest)


def pickle_config(folder: Path) -> None:
    (folder / "config.json").write_bytes(pickle.dumps(Trap(folder.parent / "unpickled")))


def describe_another_network(folder: Path) -> None:
    edit(folder, network=small.network("resnet", num_classes=5), class_names=[*"abcde"])


def describe_another_architecture(folder: Path) -> None:
    edit(folder, network=small.network("vit"))


CHANGED = r"model\.safetensors: truncated or changed since it was written \(.+\); delete the folder and run the command"
DAMAGED = r"config\.json: damaged.* \(.*\); delete the folder and run the command that made it again, or .* copy of it$"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, CHANGED),
        (change_a_byte, CHANGED),
        (swap_weights, CHANGED),
        (pickle_weights, CHANGED),
        (pickle_weights_with_their_digest, CHANGED),
        (describe_another_network, r"does not fit the model in config\.json: network\.fc\.bias has shape \(3,\), must"),
        (describe_another_architecture, r"does not fit the model in config\.json: network\.\S+ is missing"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors: missing; delete the folder and"),
        (lambda folder: (folder / "config.json").unlink(), r"model: no model folder \(config\.json and model"),
        (lambda folder: shutil.rmtree(folder), r"model: no model folder \(config\.json and model"),
        (pickle_config, DAMAGED),
        (lambda folder: (folder / "config.json").write_text(""), DAMAGED),
        (lambda folder: (folder / "config.json").write_text('{"kind": "classifier"'), DAMAGED),
        (lambda folder: (folder / "config.json").write_text('["kind"]'), DAMAGED),
        (lambda folder: (folder / "config.json").write_text("null"), DAMAGED),
        (lambda folder: (folder / "config.json").write_text('{"kind": "classifier"}'), DAMAGED),
        (lambda folder: edit(folder, network={"name": "resnet"}), DAMAGED),
        (lambda folder: edit(folder, network=["resnet"]), DAMAGED),
        (lambda folder: edit(folder, network=small.network("resnet", image_size=[8])), DAMAGED),
        (lambda folder: edit(folder, network=small.network("resnet") | {"params": ["channels"]}), DAMAGED),
        (lambda folder: edit(folder, network=small.network("resnet") | {"mean": None}), DAMAGED),
        (lambda folder: edit(folder, weights_sha256=None), CHANGED),
        (lambda folder: edit(folder, kind="surrogate"), "model: holds a surrogate, not a classifier$"),
        (lambda folder: edit(folder, kind=["classifier"]), "not a classifier$"),
        (
            lambda folder: edit(folder, network=small.network("resnet") | {"name": "resnit"}),
            r"model/config\.json: classifier\.name=resnit: unknown, did you mean resnet\?",
        ),
        (
            lambda folder: edit(folder, network=small.network("resnet", pretrained_cfg="https://example.org")),
            r"model/config\.json: classifier\.params\.pretrained_cfg: unknown to resnet",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_said_in_one_line(damage, message, tmp_path):
    saved(tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(UserError, match=message) as error:
        load_classifier(tmp_path / "model")
    assert str(tmp_path / "model") in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "unpickled").exists()


def test_a_single_file_is_no_model(tmp_path):
    torch.save({"weight": Trap(tmp_path / "unpickled")}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"model\.pt: no model folder .*: it is a single file; weights are loaded"):
        load_explainer(tmp_path / "model.pt")
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"link": "softmix"}, r"link=softmix: unknown, did you mean softmax\?"),
        ({"normalization": "aditive"}, r"normalization=aditive: unknown, did you mean additive\?"),
        ({"surrogate": small.explainer_description()["surrogate"] | {"masking": "tokens"}}, r"masking=tokens: unknown"),
        ({"network": small.explainer_description()["network"] | {"name": "os.system"}}, r"name=os\.system: unknown"),
        ({"network": small.explainer_description()["network"] | {"grid": [3, 3]}}, "3×3 players do not divide"),
    ],
)
def test_names_that_are_in_no_table_are_refused_at_loading(changes, message, tmp_path):
    save_model(tmp_path / "model", small.explainer(), small.explainer_description())
    edit(tmp_path / "model", **changes)
    with pytest.raises(UserError, match=rf"model/config\.json: .*{message}"):
        load_explainer(tmp_path / "model")


@pytest.mark.parametrize("names", [["ä", "b"], ["a", "b", "c", "d"], []])
def test_class_names_of_another_number_than_the_classes_are_refused_at_loading(names, tmp_path):
    save_model(tmp_path / "classifier", small.classifier("resnet"), DESCRIPTION)
    surrogate = {"surrogate": {"classifier": small.network("vit"), "masking": "attention", "grid": [2, 3]}}
    names_of_three = {"kind": "surrogate", "class_names": ["a", "b", "c"]}
    save_model(tmp_path / "surrogate", small.surrogate("attention"), surrogate | names_of_three)
    save_model(tmp_path / "explainer", small.explainer(), small.explainer_description())
    for kind, loader in {
        "classifier": load_classifier,
        "surrogate": load_surrogate,
        "explainer": load_explainer,
    }.items():
        loader(tmp_path / kind)
        edit(tmp_path / kind, class_names=names)
        with pytest.raises(UserError, match=rf"config\.json: .*class_names: {len(names)} names for 3 classes"):
            loader(tmp_path / kind)


@pytest.mark.parametrize("content", [b"", b"These are no weights.\n", b"0" * 100, b"I1\n", b"\x80", bytes(range(256))])
@pytest.mark.parametrize("name", ["no.pt", "no.safetensors"])
def test_what_is_no_file_of_weights_is_said_in_one_line(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: not a file of weights \(.*\): \S+") as error:
        read_state(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_network_without_a_known_head_takes_weights_that_fit_whole():
    network, given = nn.Linear(2, 3), {"weight": torch.rand(3, 2), "bias": torch.rand(3)}
    assert not fill(network, given, "given.pt")
    assert torch.equal(network.weight, given["weight"])
    with pytest.raises(
        UserError, match=r"^given.pt: holds weights of another network: bias has shape \(4,\), must be \(3,\)$"
    ):
        fill(network, given | {"bias": torch.rand(4)}, "given.pt")


def test_the_description_comes_back_with_the_digest_of_its_weights(tmp_path):
    saved(tmp_path / "model")
    description = read_description(str(tmp_path / "model"), "classifier")
    assert description.pop("weights_sha256")
    assert description == DESCRIPTION
    assert "ä" in (tmp_path / "model" / "config.json").read_text(encoding="utf-8")


def test_loading_draws_as_many_numbers_as_building_does(tmp_path):
    saved(tmp_path / "model")
    drawn = []
    for build in (lambda: load_classifier(tmp_path / "model"), lambda: build_classifier(**small.network("resnet"))):
        torch.manual_seed(1)
        build()
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[1]


def test_weights_in_half_precision_fill_a_network_in_single(tmp_path):
    halved = small.classifier("resnet").to(torch.bfloat16)
    save_model(tmp_path / "model", halved, DESCRIPTION)
    loaded = load_classifier(tmp_path / "model")
    assert loaded.network.fc.weight.dtype == torch.float32
    assert torch.equal(loaded.network.fc.weight, halved.network.fc.weight.float())


def describe(**changes: Any) -> Callable[[Path], None]:
    """Return what describes another network beside the small ResNet's weights."""
    return lambda folder: edit(folder, network=small.network(**changes))


def written(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "config.json").write_text(text, encoding="utf-8")

    return write


def sparse(name: str, start: bytes = b"") -> Callable[[Path], None]:
    """Return what puts a file of 200 GB there that takes no room on the disk."""

    def write(folder: Path) -> None:
        (folder / name).write_bytes(start)
        os.truncate(folder / name, 200 * 10**9)

    return write


def windows(folder: Path, side: int) -> None:
    """Put a network there whose weights do not depend on the image's size, but what it computes does."""
    params = {"patch_size": 1, "width": 4, "depths": [2], "num_heads": [1]}
    network = small.network("swin", (8, 8), **params)
    save_model(folder, build_classifier(**network), DESCRIPTION | {"network": network})
    edit(folder, network=network | {"image_size": [side, side]})


def header(**shapes: list[int]) -> bytes:
    """Return the start of a file of weights that has nothing else."""
    entries, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * torch.Size(shape).numel()
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


GIGANTIC = {"name": "timm", "image_size": (224, 224), "model": "vit_gigantic_patch14_224"}
HUNDRED_THOUSAND = 100_000
# What a stranger may have done to a folder, and what is said of it.
HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "a large network": (describe(**GIGANTIC), "more layers than model.safetensors has"),
    "large layers": (
        describe(name="resnet", channels=[10_000] * 4),
        r"does not fit the model in config.json: network.bn1.bias has shape \(8,\), must be \(10000,\)",
    ),
    "large images": (describe(name="resnet", image_size=(20_000, 20_000)), "whole numbers from 1 to 2048"),
    "many windows": (
        lambda folder: windows(folder, side=2048),
        r"computes 268,\S+ further bytes; at most 67,",
    ),
    "a deep network": (describe(name="vit", image_size=(32, 32), depth=1000), "more layers than model.safetensors has"),
    "an endless one": (describe(name="vit", image_size=(32, 32), depth=10**9), "depth=1000000000: .*equal to 1000"),
    "a wide one": (describe(name="vit", image_size=(32, 32), width=12 * 10**9), "damaged|does not fit|cannot be built"),
    "half a million stages": (
        describe(name="swin", depths=[1] * 500_000, num_heads=[1] * 500_000),
        "500000 stages of it do not divide an image",
    ),
    "many classes": (describe(name="resnet", num_classes=10**15), "class_names: 3 names for 10{15} classes"),
    "nested lists": (written("[" * HUNDRED_THOUSAND + "]" * HUNDRED_THOUSAND), "config.json: damaged"),
    "nested lists at the right place": (
        written('{"kind": "classifier", "network": ' + "[" * 500 + "]" * 500 + "}"),
        "more than 16 levels",
    ),
    "a long description": (written('{"kind": "' + "a" * 2 * 10**7 + '"}'), "more than 4,194,304 bytes"),
    "a long kind": (written('{"kind": "' + "a" * 10**6 + '"}'), "holds a a+ …, not a classifier"),
    "an endless description": (sparse("config.json"), "more than 4,194,304 bytes"),
    "endless weights": (sparse("model.safetensors"), "truncated or changed"),
    "endless weights with a header": (
        sparse("model.safetensors", header(**{"network.fc.weight": [5 * 10**9, 10]})),
        "truncated or changed",
    ),
    "a long header": (sparse("model.safetensors", (10**11).to_bytes(8, "little")), "truncated or changed"),
}
LEVELS = "a million levels of an explainer"

LOADING = r"""
import json, re, time
from pathlib import Path
from fastshap_lab.errors import UserError
from fastshap_lab.inference import load_classifier, load_explainer

def peak():  # not of getrusage, whose count begins with that of the process that started this one
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 2**10

load_classifier(Path("usual"))
found = {}
for folder in [*sorted(Path("hostile").iterdir()), Path("large")]:  # the largest at the end
    before, start, said = peak(), time.perf_counter(), "nothing"
    try:
        (load_explainer if "explainer" in folder.name else load_classifier)(folder)
    except UserError as error:
        said = str(error)
    found[folder.name] = [time.perf_counter() - start, peak() - before, said]
print(json.dumps(found))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells the peak of memory")
def test_a_strangers_folder_costs_no_more_than_its_weights(tmp_path):
    saved(tmp_path / "usual")
    large = small.network("vit", (32, 32), width=768, depth=4, num_heads=12, mlp_width=3072)
    save_model(tmp_path / "large", build_classifier(**large), DESCRIPTION | {"network": large})
    mebibytes = (tmp_path / "large" / "model.safetensors").stat().st_size / 2**20
    assert mebibytes > 100
    for name, (damage, _) in HOSTILE.items():
        shutil.copytree(tmp_path / "usual", tmp_path / "hostile" / name)
        damage(tmp_path / "hostile" / name)
    explainer = small.explainer_description()
    save_model(tmp_path / "hostile" / LEVELS, small.explainer(), explainer)
    edit(tmp_path / "hostile" / LEVELS, network=explainer["network"] | {"params": {"channels": [2] * 10**6}})
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", LOADING], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found.pop("large")[1] < 2.5 * mebibytes
    expected = {name: line for name, (_, line) in HOSTILE.items()} | {LEVELS: "more layers than model.safetensors has"}
    assert found.keys() == expected.keys()
    for name, (seconds, taken, said) in found.items():
        assert seconds < 10, name  # a second at most, on a core of one's own
        assert taken < 200, name
        assert re.search(expected[name], said), said
        assert len(said) < 1000, name
        assert "\n" not in said
