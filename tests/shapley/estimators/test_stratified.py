import itertools

import pytest
import torch

from fastshap_lab.shapley.estimators import Stratified
from tests.oracles import TableGame, UnanimityGame, members, subset_shapley_values


class Recorded(TableGame):
    def __init__(self, table: torch.Tensor) -> None:
        super().__init__(table)
        self.asked: list[torch.Tensor] = []

    def values(self, image: torch.Tensor, coalitions: torch.Tensor) -> torch.Tensor:
        self.asked.append(coalitions[0])
        return super().values(image, coalitions)


@pytest.mark.parametrize("num_players", range(2, 9))
def test_every_coalition_is_asked_for_once(num_players: int):
    game = Recorded.random(num_images=1, num_players=num_players, num_classes=2)
    stratified = Stratified(game, game.image)
    stratified.advance(10**6)
    numbers = (torch.cat(game.asked) * 2 ** torch.arange(num_players)).sum(dim=1)
    assert sorted(numbers.tolist()) == list(range(1, 2**num_players - 1))
    assert stratified.complete
    torch.testing.assert_close(stratified.estimate().phi, subset_shapley_values(game.table), rtol=0, atol=1e-12)
    assert not stratified.estimate().stderr.any()


def test_singletons_come_first_then_two_pairs_of_each_size():
    game = Recorded.random(num_images=1, num_players=7, num_classes=2)
    Stratified(game, game.image).advance(22)
    sizes = torch.cat(game.asked).sum(dim=1).view(-1, 2).tolist()
    assert sizes == [[1, 6]] * 7 + [[2, 5], [3, 4]] * 2


def test_no_error_is_stated_before_each_size_has_two_pairs():
    game = TableGame.random(num_images=1, num_players=7, num_classes=2)
    stratified = Stratified(game, game.image)
    stratified.advance(21)
    assert stratified.estimate().stderr.isinf().all()
    stratified.advance(1)
    assert stratified.estimate().stderr.isfinite().all()


def test_values_that_depend_on_the_size_alone_are_exact_though_evidence_cannot_be_certain():
    sizes = [float(len(members(number, 7))) for number in range(2**7)]
    game = TableGame(1e6 * torch.tensor(sizes, dtype=torch.float64).square().sin().view(1, -1, 1))
    stratified = Stratified(game, game.image)
    stratified.advance(40)
    found = stratified.estimate()
    torch.testing.assert_close(found.phi, subset_shapley_values(game.table), rtol=0, atol=1e-9)
    assert (found.stderr > 1).all()


def test_up_to_twenty_players_end_at_exact_values():
    """It said so, and from 20 players on drew pairs of nine for ever."""
    game = UnanimityGame.random(num_images=1, num_players=20, num_classes=1)
    assert Stratified(game, game.image).max_samples == 2**19 - 1
    game = UnanimityGame.random(num_images=1, num_players=21, num_classes=1)
    assert Stratified(game, game.image).max_samples is None


@pytest.mark.parametrize(("num_players", "pairs", "drawn"), [(4, 3, 2), (5, 10, 2), (5, 10, 3), (5, 10, 9)])
def test_mean_over_all_draws_is_exact_and_its_variance_as_stated(num_players: int, pairs: int, drawn: int):
    """Of up to five players, singletons leave only the pairs of size two to be drawn."""
    game = TableGame.random(num_images=1, num_players=num_players, num_classes=4)
    found = []
    for chosen in itertools.combinations(range(pairs), drawn):
        stratified = Stratified(game, game.image)
        stratified._orders[1] = torch.tensor(chosen)
        stratified.advance(2 * (num_players + drawn))
        found.append(stratified.estimate())
    phi, stderr = torch.stack([one.phi for one in found]), torch.stack([one.stderr for one in found])
    torch.testing.assert_close(phi.mean(dim=0), subset_shapley_values(game.table), rtol=0, atol=1e-12)
    ratio = stderr.square().mean() / phi.var(dim=0, correction=0).mean()
    assert 0.5 < ratio < 1.5  # approximate for so few


def test_errors_are_those_of_independent_strata():
    """Recomputed pair by pair from what was asked for."""
    game = Recorded.random(num_images=1, num_players=7, num_classes=2)
    stratified = Stratified(game, game.image)
    stratified.advance(60)
    coalitions = torch.cat(game.asked)[::2]
    differences = game.values(game.image, coalitions[None])[0] - game.values(game.image, ~coalitions[None])[0]
    single = coalitions.sum(dim=1) == 1
    slope = coalitions[single].double().T @ differences[single] / 4  # half of what is additive
    left = differences - (2 * coalitions.double() - 1) @ slope
    variance = torch.zeros(7, 2, dtype=torch.float64)
    for size, pairs in ((2, 21), (3, 35)):
        chosen = coalitions[coalitions.sum(dim=1) == size]
        d = left[coalitions.sum(dim=1) == size]
        n = len(d)
        weights = torch.where(chosen, 1 / size, torch.tensor(-1 / (7 - size), dtype=torch.float64))
        others = (d.sum(dim=0) - d) / (n - 1)
        terms = (1 - 1 / pairs) * weights[:, :, None] * (d - others)[:, None]
        variance += (1 - n / pairs) * terms.var(dim=0) / n
    torch.testing.assert_close(stratified.estimate().stderr[0], variance.sqrt())
