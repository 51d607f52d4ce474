"""Refinement: chosen on references, no worse than either of its parts, with intervals that hold elsewhere."""

import torch

from fastshap_lab.shapley import Estimate, Refinement, calibrated_refinement
from fastshap_lab.shapley.estimators import Kriging
from tests.oracles import TableGame, UnanimityGame, subset_shapley_values

PLAYERS, CLASSES = 24, 4


def reference(game: UnanimityGame) -> Estimate:
    return Estimate(game.phi, torch.zeros_like(game.phi), 2**PLAYERS)


def prior_of(game: UnanimityGame, error: float) -> torch.Tensor:
    return game.phi + error * torch.randn(game.phi.shape, generator=torch.Generator().manual_seed(9))


def games() -> tuple[UnanimityGame, UnanimityGame]:
    """Return two games of the same kind whose first class pays more than the others."""
    made = []
    for seed in (0, 1):
        game = UnanimityGame.random(48, PLAYERS, CLASSES, seed)
        scale = torch.tensor([3.0, 1, 1, 1], dtype=torch.float64)
        made.append(UnanimityGame(game.terms, game.pays * scale))
    return made[0], made[1]


def test_it_is_as_good_as_its_better_part_and_its_intervals_hold():
    known, new = games()
    target = torch.zeros(48, dtype=torch.long)
    refine = calibrated_refinement(
        Kriging(known, known.image, seed=1), prior_of(known, 0.3), reference(known), target, max_evaluations=512
    )
    assert list(refine.evaluations) == [2**power for power in range(1, 10)]
    assert refine.error[0] < refine.error[-1]
    prior, estimator = prior_of(new, 0.3), Kriging(new, new.image, seed=2)
    for budget in (16, 100, 400, 1000):  # between and beyond those it was chosen at
        estimator.advance(budget - estimator.granted)
        refined, alone = refine(estimator, prior, target), estimator.estimate()
        errors = [(one - new.phi).square().mean() for one in (refined.phi, prior, alone.phi)]
        if alone.stderr.isfinite().all():
            assert errors[0] <= 1.02 * errors[2]
        assert errors[0] <= 1.02 * errors[1]
        inside = (refined.phi - new.phi).abs() <= 1.96 * refined.stderr
        assert 0.9 < inside[:, :, 0].double().mean() < 0.99
        assert 0.9 < inside[:, :, 1:].double().mean() < 0.99


def test_of_a_single_class_there_are_no_others_to_calibrate():
    game = TableGame.random(6, 4, 1)
    exact = subset_shapley_values(game.table)
    truth, target = Estimate(exact, torch.zeros_like(exact), 16), torch.zeros(6, dtype=torch.long)
    found = calibrated_refinement(Kriging(game, game.image), exact + 0.1, truth, target, max_evaluations=8)
    assert set(found.others_factor) == {1.0}


def test_it_survives_being_written_down():
    refine = Refinement((2, 4), (3.0, 1.0), (1.0, 2.0), (0.5, 0.5))
    known, _ = games()
    estimator = Kriging(known, known.image)
    estimator.advance(4)
    target = torch.arange(48) % CLASSES
    first, again = (one(estimator, known.phi, target) for one in (refine, Refinement(**refine.to_json())))
    assert torch.equal(first.phi, again.phi)
    assert torch.equal(first.stderr, again.stderr)
    twice = Refinement((4,), (1.0,), (2.0,), (1.0,))(estimator, known.phi, target).stderr
    torch.testing.assert_close(first.stderr[0, :, 0], twice[0, :, 0])
    torch.testing.assert_close(2 * first.stderr[0, :, 1], twice[0, :, 1])


def test_the_noise_of_references_is_not_the_refinements():
    known, _ = games()
    target = torch.zeros(48, dtype=torch.long)
    noisy = Estimate(
        known.phi + 0.02 * torch.randn(known.phi.shape, generator=torch.Generator().manual_seed(0)),
        torch.full_like(known.phi, 0.02),
        1000,
    )
    prior = prior_of(known, 0.3)
    exact, rough = (
        calibrated_refinement(Kriging(known, known.image, seed=1), prior, one, target, max_evaluations=64)
        for one in (reference(known), noisy)
    )
    estimator = Kriging(known, known.image, seed=2)
    estimator.advance(64)
    of_exact, of_rough = (
        refine(estimator, prior, target).stderr.square().mean(dim=(0, 1)) for refine in (exact, rough)
    )
    torch.testing.assert_close(of_exact, of_rough, rtol=0.2, atol=0)
