"""The stage explain: pictures that are not the data, through ``train.py``."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

import fastshap_lab as fsl
from fastshap_lab.bulk import shards
from fastshap_lab.errors import UserError
from fastshap_lab.runs.execute import conclude, execute
from tests import small
from tests.interruptions import BASE, Killed, kill_at
from tests.small_runs import executed, planned

SETTINGS = ["stage=explain", "explain.images=pictures", "explain.shard=4", "explain.top=2", "trainer.max_batch=3"]


@pytest.fixture(autouse=True)
def _somewhere(tmp_path, monkeypatch, uninterrupted):
    """Go to a folder with the runs up to an explainer and with pictures, of which one is broken."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(uninterrupted[0], "runs")
    Path("pictures").mkdir()
    for number, image in enumerate(small.images(10, (20, 30))):
        Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy()).save(f"pictures/{number}.png")
    Path("pictures/5.png").write_text("no picture")


def files(folder: Path) -> dict[str, bytes]:
    paths = [*folder.glob("explanations/*"), folder / "failed.jsonl"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_pictures_that_are_not_the_data_are_explained_by_the_trained_explainer(capsys):
    runs = executed(*SETTINGS, base=BASE)
    *_, trained, run = runs
    assert run.stage.name == "explain"
    assert run.measures() == {"pictures": 10.0, "failed": 1.0}
    read = fsl.read_explanations(run.folder)
    expected = fsl.load_explainer(trained.folder).explain([row.path for row in read])
    assert [row.path for row in read] == [f"pictures/{number}.png" for number in range(10) if number != 5]
    best = expected.predictions.argsort(dim=1, descending=True)
    for index, row in enumerate(read):
        assert row.classes == [expected.classes[number] for number in best[index, :2]]
        np.testing.assert_allclose(row.values, expected.values[index, best[index, :2]], rtol=1e-3, atol=1e-5)
    assert len(read) == 9
    console = Console(highlight=False, width=200)
    execute(runs, console)
    conclude(runs, console)
    said = capsys.readouterr().out
    assert f"1 of 10 pictures could not be read: {run.folder / 'failed.jsonl'}" in said
    assert f'explanations = fsl.read_explanations("{run.folder}")' in said
    assert run.record()["work"]["amount"] == 10


def test_interrupted_it_goes_on_where_it_stopped(monkeypatch):
    whole = executed(*SETTINGS, "runs_dir=runs", base=BASE)[-1]
    before = files(whole.folder)
    assert len(before) == 4
    shutil.rmtree(whole.folder)
    for call in (1, 2):
        with monkeypatch.context() as patch:
            kill_at(patch, shards, "_write", call)
            with pytest.raises(Killed):
                executed(*SETTINGS, base=BASE)
    first = whole.folder / "explanations/000000.parquet"
    time = first.stat().st_mtime_ns
    run = executed(*SETTINGS, base=BASE)[-1]
    assert files(run.folder) == before
    assert first.stat().st_mtime_ns == time
    (run.folder / "explanations/000002.parquet").unlink()
    assert run.action == "make"
    executed(*SETTINGS, base=BASE)
    assert files(run.folder) == before


def test_a_run_is_of_its_pictures_and_settings():
    def folder(*settings: str) -> Path:
        return planned(*SETTINGS, *settings, base=BASE)[-1].folder

    first = folder()
    assert folder("trainer.max_batch=5") == first
    others = [folder("explain.top=1"), folder("explain.shard=5"), folder("explain.refine=4"), folder("seed=1")]
    Path("pictures/9.png").unlink()
    others.append(folder())
    assert len({first, *others}) == 6


@pytest.mark.parametrize(
    ("setting", "line"),
    [
        ("explain.images=null", "explain.images: missing; a folder"),
        ("explain.images=nothing", "explain.images=nothing: nothing: no such file or folder, and no user/name"),
        ("explain.refine=1", "refine=1: must be 2 or more"),
        ("explain.tolerance=0.1", "explain.tolerance: says when to stop refining; give explain.refine, too"),
    ],
)
def test_a_mistake_is_said_before_anything_starts(setting, line):
    with pytest.raises(UserError, match=line):
        planned(*SETTINGS, setting, base=BASE)


def test_where_no_picture_can_be_read_the_run_has_failed():
    with pytest.raises(UserError, match=r"failed.jsonl: none of 1 pictures could be read"):
        executed(*SETTINGS, "explain.images=pictures/5.png", base=BASE)
    run = planned(*SETTINGS, "explain.images=pictures/5.png", base=BASE)[-1]
    assert run.record()["status"] == "failed"
