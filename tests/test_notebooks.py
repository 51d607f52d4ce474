import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An explainer of the digits that has hardly been trained."""
    runs = tmp_path_factory.mktemp("runs")
    epochs = [f"{stage}.epochs=1" for stage in ("classifier", "surrogate", "explainer")]
    command = [sys.executable, "train.py", "stage=explainer", "trainer.accelerator=cpu", f"runs_dir={runs}", *epochs]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (folder,) = runs.glob("explainer/*/model")
    return folder


@pytest.mark.extended
@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_notebook_runs(path, model, monkeypatch):
    monkeypatch.setenv("FASTSHAP_LAB_MODEL", str(model))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": path.parent}}).execute()


@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_notebook_is_kept_without_outputs(path):
    cells = nbformat.read(path, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
