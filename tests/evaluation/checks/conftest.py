import pytest

from tests.evaluation.checks.tiny import tiny_evaluation


@pytest.fixture(scope="session")
def evaluation(tmp_path_factory):
    """Return an evaluation that tests share: none may change it."""
    return tiny_evaluation(tmp_path_factory.mktemp("runs"))
