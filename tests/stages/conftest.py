import os

import pytest

from fastshap_lab.runs.run import Run
from tests.interruptions import BASE
from tests.small_runs import executed


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """The runs up to an explainer, never stopped, and their folder, which all test processes share."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "uninterrupted"
    runs: list[Run] = executed("stage=explainer", f"runs_dir={folder}", base=BASE)  # made by the first to ask
    return folder, runs
