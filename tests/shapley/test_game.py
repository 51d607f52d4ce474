from functools import partial

import pytest
import scipy.special
import torch

from fastshap_lab.errors import UserError
from fastshap_lab.shapley import ESTIMATORS, SAMPLERS, UniformSizeSampler, kernel_size_probabilities, pair_design
from fastshap_lab.shapley.designs import ALLOCATIONS
from fastshap_lab.shapley.game import LINKS, log_odds
from tests import oracles

LOGITS = 3 * torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_links_are_named_after_what_they_return():
    logits = LOGITS.numpy()
    expected = {
        "softmax": scipy.special.softmax(logits, axis=-1),
        "log_softmax": scipy.special.log_softmax(logits, axis=-1),
        "log_odds": scipy.special.logit(scipy.special.softmax(logits, axis=-1)),
        "logits": logits,
        "centred_logits": logits - logits.mean(axis=-1, keepdims=True),
        "sigmoid": scipy.special.expit(logits),
        "identity": logits,
    }
    assert LINKS.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(LINKS[name](LOGITS), torch.from_numpy(values))


@pytest.mark.parametrize(
    "logits",
    [
        [20.0, 0.0, -3.0],  # float32 rounds the first probability to 1
        [17.0, 0.0, 0.0],
        [1000.0, 0.0, 0.0],
        [0.0, 1000.0, -1000.0],
        [-1000.0, 0.0, -1000.0],
        [1000.0, 1000.0, 0.0],
        [1e-4, 0.0, 0.0],
        [0.25, 0.25],
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_odds_of_extreme_logits_are_finite_and_correct(logits: list[float], dtype: torch.dtype):
    exact = torch.tensor(logits, dtype=dtype)
    expected = torch.tensor(oracles.log_odds(exact.tolist()), dtype=dtype)
    torch.testing.assert_close(log_odds(exact), expected)


ALONE = oracles.TableGame(torch.zeros(1, 2, 1, dtype=torch.float64))


@pytest.mark.parametrize(
    "make",
    [
        partial(kernel_size_probabilities, 1),
        partial(UniformSizeSampler, 1),
        *(partial(sampler, 1) for sampler in SAMPLERS.values()),
        *(partial(pair_design, 1, 4, allocation, 0) for allocation in ALLOCATIONS),
        *(partial(estimator, ALONE, ALONE.image) for estimator in ESTIMATORS.values()),
    ],
)
def test_a_single_player_has_nobody_to_share_with(make):
    with pytest.raises(UserError, match=r"^players=1: a game needs 2 or more players to share its value$"):
        make()


def test_what_softmax_leaves_free_is_the_only_thing_that_logits_say_beyond_the_other_links():
    free = torch.randn(2, 3, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for name in LINKS.keys() - {"sigmoid", "identity"}:
        same = torch.allclose(LINKS[name](LOGITS + free), LINKS[name](LOGITS))
        assert same == (name != "logits")
