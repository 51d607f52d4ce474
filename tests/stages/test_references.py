"""References: kept, and asked for again where what is kept was changed or is another image's."""

import pytest
import torch

from fastshap_lab.inference import load_surrogate
from fastshap_lab.models.freezing import frozen
from fastshap_lab.stages import references
from fastshap_lab.stages.references import reference_values
from tests.runs import executed


@pytest.mark.parametrize("evaluations", [16, 8], ids=["exact", "estimated"])
def test_changed_and_swapped_references_are_made_again(tmp_path, monkeypatch, evaluations):
    run = executed("stage=surrogate", f"runs_dir={tmp_path}")[-1]
    game, made = frozen(load_surrogate(run.model)).game(), []
    original = references.shapley_values
    monkeypatch.setattr(references, "shapley_values", lambda *given, **more: made.append(0) or original(*given, **more))

    def values() -> torch.Tensor:
        return reference_values(run, game, "test", [3, 5, 7], "softmax", evaluations).phi

    before = values()
    assert torch.equal(values(), before)
    assert len(made) == 3
    third, fifth, seventh = sorted((run.folder / "references").rglob("*.safetensors"))
    content = [path.read_bytes() for path in (third, fifth, seventh)]
    third.write_bytes(content[1])
    fifth.write_bytes(content[0])
    seventh.write_bytes(content[2][:-3] + bytes([content[2][-3] ^ 1]) + content[2][-2:])
    assert torch.equal(values(), before)
    assert len(made) == 6
    assert [path.read_bytes() for path in (third, fifth, seventh)] == content
