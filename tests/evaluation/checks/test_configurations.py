"""The configurations of the checks that perturb, randomize, mask and retrain."""

import inspect

import pytest

from fastshap_lab.components import build
from fastshap_lab.evaluation.checks import CHECKS
from tests.small_runs import configured


@pytest.mark.parametrize("name", ["randomization", "max_sensitivity", "masked_accuracy", "roar"])
def test_a_configuration_builds_its_check_and_shows_the_defaults(name):
    chosen = configured(f"check=[{name}]", base=[]).evaluate.checks[name]
    assert isinstance(build(CHECKS, f"evaluate.checks.{name}", chosen.name, chosen.params), CHECKS[name])
    defaults = {key: parameter.default for key, parameter in inspect.signature(CHECKS[name]).parameters.items()}
    shown = {key: tuple(value) if isinstance(value, list) else value for key, value in chosen.params.items()}
    assert shown == defaults
