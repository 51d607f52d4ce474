"""Model folders, run folders and tables of an earlier version: loaded, reused, and the same."""

from zipfile import ZipFile

import pandas as pd
import pytest
import torch
from safetensors.torch import load

import fastshap_lab as fsl
from tests.golden import ARCHIVE, OVERRIDES
from tests.small_runs import TINY, executed, planned

MEASURED_ANEW = {"seconds", "MiB"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    with ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder


def test_explainers_answer_as_they_did(folder):
    answers = load((folder / "answers.safetensors").read_bytes())
    images = answers.pop("images")
    assert len(answers) == 2
    for name, values in answers.items():
        found = fsl.load_explainer(folder / "runs" / "explainer" / name).explain(images).values
        torch.testing.assert_close(found, values, rtol=0, atol=1e-6)


def test_runs_are_reused_and_tables_are_what_they_were(folder):
    settings = f"runs_dir={folder / 'runs'}", *OVERRIDES
    assert [run.action for run in planned(*settings, base=TINY)] == ["reuse"] * 8 + ["make"]
    *_, evaluation = executed(*settings, base=TINY)
    found = {path.name: pd.read_csv(path) for path in (evaluation.folder / "tables").glob("*.csv")}
    expected = {path.name: pd.read_csv(path) for path in (folder / "tables").glob("*.csv")}
    assert set(found) == set(expected)
    for name, table in expected.items():
        columns = [column for column in table if column not in MEASURED_ANEW]
        pd.testing.assert_frame_equal(
            found[name][columns], table[columns], rtol=1e-4, atol=5e-4, obj=name
        )  # processors round differently
