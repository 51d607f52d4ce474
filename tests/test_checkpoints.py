import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fastshap_lab import checkpoints
from fastshap_lab.checkpoints import load_weights, read_description, save_model
from fastshap_lab.errors import UserError
from fastshap_lab.inference import load_classifier, load_explainer, load_surrogate
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
        module, loader, description = small.classifier("resnet"), load_classifier, {"network": small.network("resnet")}
    elif kind == "surrogate":
        module, loader = small.surrogate("attention"), load_surrogate
        description = {"surrogate": {"classifier": small.network("vit"), "masking": "attention", "grid": [2, 3]}}
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
    edit(folder, network=small.network("resnet", num_classes=5))


def describe_another_architecture(folder: Path) -> None:
    edit(folder, network=small.network("vit"))


CHANGED = r"model\.safetensors: truncated or changed since it was written; export the model again$"
DAMAGED = r"config\.json: damaged.*; export the model again$"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, CHANGED),
        (change_a_byte, CHANGED),
        (swap_weights, CHANGED),
        (pickle_weights, CHANGED),
        (pickle_weights_with_their_digest, r"model\.safetensors: does not fit the model in config\.json: "),
        (describe_another_network, r"does not fit the model in config\.json: size mismatch for network\.fc\.bias"),
        (describe_another_architecture, r"does not fit the model in config\.json: Unexpected key"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors: missing; export"),
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


def test_the_description_comes_back_with_the_digest_of_its_weights(tmp_path):
    network = saved(tmp_path / "model")
    description = read_description(str(tmp_path / "model"), "classifier")
    assert description.pop("weights_sha256")
    assert description == DESCRIPTION
    assert "ä" in (tmp_path / "model" / "config.json").read_text(encoding="utf-8")
    with pytest.raises(UserError, match="truncated or changed"):
        load_weights(tmp_path / "model", network, {})
