"""Descriptions of models, typed: their JSON is that of the folders there are."""

import json
from typing import Any

import pytest

from fastshap_lab.errors import UserError
from fastshap_lab.models.specs import ClassifierSpec, EncoderSpec, ExplainerSpec, Spec, SurrogateSpec
from tests import small

BLUR = {"name": "blur", "params": {"width": 3.0}}
NAMES = ["cat", "dog", "eel"]
SURROGATE = {"classifier": small.network("resnet"), "masking": BLUR, "grid": [2, 3]}
FOLDERS: dict[type[Spec], dict[str, Any]] = {
    EncoderSpec: {"kind": "encoder", "network": small.network("vit", num_classes=0)},
    ClassifierSpec: {"kind": "classifier", "network": small.network("resnet"), "class_names": NAMES},
    SurrogateSpec: {"kind": "surrogate", "surrogate": SURROGATE, "class_names": NAMES},
    ExplainerSpec: small.explainer_description("vit"),
}


@pytest.mark.parametrize("spec", FOLDERS, ids=lambda spec: spec.kind)
@pytest.mark.parametrize("changes", [{}, {"refinement": {"error": [0.5]}, "classifier": None}], ids=["", "more"])
def test_they_are_read_and_written_byte_by_byte(spec, changes):
    described = FOLDERS[spec] | {key: value for key, value in changes.items() if spec is ExplainerSpec}
    read = spec.from_json(described | {"weights_sha256": "…", "of a later version": 1})
    assert json.dumps(read.to_json()) == json.dumps(described)
    assert spec.from_json(read.to_json()) == read


def test_they_build_what_they_describe():
    surrogate = SurrogateSpec.from_json(FOLDERS[SurrogateSpec]).surrogate.build()
    assert (surrogate.grid.shape, type(surrogate.masking).__name__) == ((2, 3), "Blur")
    encoder = EncoderSpec.from_json(FOLDERS[EncoderSpec]).network.build()
    assert encoder.num_classes == 0


@pytest.mark.parametrize(
    ("spec", "changes", "message"),
    [
        (ClassifierSpec, {"network": None}, "^network=None: "),
        (ClassifierSpec, {"network": small.network("resnet", image_size=[8])}, "^network.image_size=.8.: .*at least 2"),
        (ClassifierSpec, {"network": small.network("resnet", image_size=[8, "8"])}, "^network.image_size.1=8: "),
        (ClassifierSpec, {"network": small.network("resnet") | {"num_classes": True}}, "^network.num_classes=True: "),
        (ClassifierSpec, {"network": small.network("resnet") | {"std": [[1]]}}, "^network.std.0=.1.: "),
        (ClassifierSpec, {"network": small.network("resnet") | {"path": "os"}}, "^network.path=os: "),
        (ClassifierSpec, {"network": {"name": "resnet"}}, "^network.params: missing$"),
        (ClassifierSpec, {"class_names": ["a", 2]}, "^class_names.1=2: "),
        (SurrogateSpec, {"surrogate": SURROGATE | {"masking": {"nam": "blur"}}}, "^surrogate.masking=.*must be a name"),
        (ExplainerSpec, {"network": small.network("unet")}, "^network.grid: missing$"),
        (ExplainerSpec, {"classifier": []}, "^classifier="),
        (ExplainerSpec, {"refinement": [1]}, "^refinement="),
    ],
)
def test_what_is_wrong_is_said_in_one_line(spec, changes, message):
    with pytest.raises(UserError, match=message) as error:
        spec.from_json(FOLDERS[spec] | changes)
    assert "\n" not in str(error.value)
