"""References: kept, and asked for again where what is kept was changed or is another image's."""

import pytest
import torch

from fastshap_lab.config import ReferencesConfig
from fastshap_lab.errors import UserError
from fastshap_lab.evaluation import references
from fastshap_lab.evaluation.references import reference_values
from fastshap_lab.inference import load_surrogate
from fastshap_lab.models import ModelGame
from fastshap_lab.models.freezing import frozen_copy
from fastshap_lab.shapley import exact_shapley_values
from tests.small_runs import executed, planned


@pytest.mark.parametrize("evaluations", [16, 12], ids=["exact", "estimated"])
def test_changed_and_swapped_references_are_made_again(tmp_path, monkeypatch, evaluations):
    run = executed("stage=surrogate", f"runs_dir={tmp_path}")[-1]
    game, made = frozen_copy(load_surrogate(run.model)).game(), []
    given = ReferencesConfig(test_evaluations=evaluations)
    original = references.shapley_values
    monkeypatch.setattr(references, "shapley_values", lambda *given, **more: made.append(0) or original(*given, **more))

    def values() -> torch.Tensor:
        images = run.data.dataset("test").images_at(torch.tensor([3, 5, 7]))
        return reference_values(run.store, run.model_digest, game, images, "test", "softmax", given).phi

    before = values()
    assert torch.equal(values(), before)
    assert len(made) == 3
    third, fifth, seventh = sorted((tmp_path / "store" / "references").iterdir())
    content = [path.read_bytes() for path in (third, fifth, seventh)]
    third.write_bytes(content[1])
    fifth.write_bytes(content[0])
    seventh.write_bytes(content[2][:-3] + bytes([content[2][-3] ^ 1]) + content[2][-2:])
    assert torch.equal(values(), before)
    assert len(made) == 6
    assert [path.read_bytes() for path in (third, fifth, seventh)] == content


@pytest.fixture(scope="module")
def surrogate(tmp_path_factory):
    return executed("stage=surrogate", "data.grid=[4,4]", f"runs_dir={tmp_path_factory.mktemp('runs')}")[-1]


@pytest.mark.parametrize(
    ("tolerance", "kind"),
    [
        (None, "estimated by KernelSHAP with 400 evaluations"),
        (0.5, "estimated by kriging for 3 images, where two designs agree to 50%"),
        (1e-6, "estimated by KernelSHAP with 400 evaluations"),
    ],
)
def test_kriging_is_believed_where_two_designs_agree(surrogate, tolerance, kind):
    game = frozen_copy(load_surrogate(surrogate.model)).game()
    images = surrogate.data.dataset("test").images_at(torch.tensor([3, 5, 7]))
    given = ReferencesConfig(test_evaluations=400, kriging_tolerance=tolerance)
    digest = surrogate.model_digest
    found = reference_values(surrogate.store, digest, game, images, "test", "softmax", given)
    assert found.kind == kind
    exact = exact_shapley_values(game, images.float() / 255)
    assert (found.phi - exact).square().mean() < 0.01 * exact.square().mean()
    assert ((found.phi - exact).abs() <= 4 * found.stderr).double().mean() > 0.9
    torch.testing.assert_close(found.phi.sum(dim=1), exact.sum(dim=1), rtol=0, atol=1e-6)


def test_errors_that_are_unknown_make_no_reference(surrogate):
    class Flat(ModelGame):
        def values(self, image: torch.Tensor, coalitions: torch.Tensor) -> torch.Tensor:
            return torch.full_like(super().values(image, coalitions), 0.25)

    given, model = ReferencesConfig(test_evaluations=200), frozen_copy(load_surrogate(surrogate.model))
    image, flat = surrogate.data.dataset("test").images_at(torch.tensor([2])), Flat(model.classifier, model.masking)
    with pytest.raises(UserError, match=r"references of test image 1 of 1: 200 evaluations do not determine"):
        reference_values(surrogate.store, "flat", flat, image, "test", "flat", given)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            ["references.test=8", "references.test_evaluations=4"],
            r"references.test_evaluations=4: too few .* 60 or more",
        ),
        (
            ["references.val_evaluations=59"],
            r"references.val_evaluations=59: .* must be at least 60, and 65536 give exact values",
        ),
        (
            ["references.val_evaluations=100", "references.kriging_tolerance=0.1"],
            r"val_evaluations=100: .* 120 or more",
        ),
        (
            ["data.params.image_size=[16,16]", "data.grid=[16,16]", "references.val_evaluations=256"],
            r"references.val_evaluations=256: too few for the Shapley values of 256 players; must be at least 1020$",
        ),
    ],
)
def test_budgets_that_know_too_little_are_refused_in_the_plan(tmp_path, settings, line):
    """Below P - 1 pairs, the equal split became the truth."""
    with pytest.raises(UserError, match=line):
        planned("data.grid=[4,4]", "references.val=2", *settings, f"runs_dir={tmp_path}")
