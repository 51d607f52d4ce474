import pytest

from fastshap_lab.runs.run import Run
from tests.interruptions import BASE
from tests.small_runs import executed


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory, worker_id):
    """The runs up to an explainer, never stopped, and their folder, which all test processes share."""
    root = tmp_path_factory.getbasetemp()
    folder = (root if worker_id == "master" else root.parent) / "uninterrupted"
    runs: list[Run] = executed("stage=explainer", f"runs_dir={folder}", base=BASE)  # made by the first to ask
    return folder, runs
