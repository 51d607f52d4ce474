"""``fastshap-lab``: what it prints and writes, its exit status, and one line for every mistake."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from PIL import Image

from fastshap_lab import commands
from fastshap_lab.bulk.shards import read_explanations
from fastshap_lab.checkpoints import save_model
from fastshap_lab.commands import main, parser
from fastshap_lab.images import to_tensor
from fastshap_lab.inference import Explanation
from tests import small

ROOT = Path(__file__).parents[1]
REFINEMENT = {"evaluations": [2, 60], "error": [0.1, 0.1], "target_factor": [1.0, 1.0], "others_factor": [1.0, 1.0]}


@pytest.fixture(scope="module")
def explainer():
    return small.explainer(refinement=REFINEMENT)


@pytest.fixture(autouse=True)
def _somewhere(tmp_path, monkeypatch, explainer):
    """Go to a folder with an explainer's run and pictures, of which one is broken."""
    monkeypatch.chdir(tmp_path)
    save_model(Path("run/model"), explainer, small.explainer_description(refinement=REFINEMENT))
    Path("run/run.json").write_text(json.dumps({"stage": "explainer", "status": "finished"}))
    for name, image in zip(("cat/1.png", "cat/1.bmp", "dog/1.png", ".hidden/1.png"), small.images(4), strict=True):
        path = Path("pictures", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy()).save(path)
    Path("pictures/notes.txt").write_text("no picture")
    Path("pictures/dog/broken.png").write_text("no picture either")


def status(*words: str) -> int:
    """Return the exit status of the command in this process."""
    with pytest.raises(SystemExit) as end:
        main(words)
    return end.value.code


def files(folder: str) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


def test_explain_writes_figures_and_values_and_prints_a_line_each(capsys, explainer):
    words = "explain run pictures pictures/dog/1.png --out out/maps --refine 20 --classes eel 0 --batch 2"
    assert status(*words.split()) == 0
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    paths = ["cat/1.bmp", "cat/1.png", "dog/1.png", "dog/broken.png", "dog/1.png"]
    assert [row["path"] for row in rows] == [f"pictures/{path}" for path in paths]
    assert [row["path"] for row in rows if "error" in row] == ["pictures/dog/broken.png"]
    assert rows[3]["error"].startswith("cannot be read as an image: ")
    line, count = said.err.splitlines()
    assert line == f"pictures/dog/broken.png: {rows[3]['error']}"
    assert count == "1 of 5 pictures could not be read"
    written = [f"{name}.{kind}" for name in ("1", "cat/1", "cat/1-2", "dog/1") for kind in ("npz", "png")]
    assert files("out/maps") == sorted(written)
    for row in (row for row in rows if "error" not in row):
        expected = explainer.explain(to_tensor(row["path"], small.IMAGE_SIZE), refine=20)
        kept = Explanation.load(row["values"])
        torch.testing.assert_close(kept.values, expected.values, rtol=1e-4, atol=1e-6)
        with Image.open(row["figure"]) as figure:
            assert figure.format == "PNG"
        assert row["classes"] == ["eel", "cat"]
        assert row["predicted"] == kept.classes[int(kept.probabilities[0].argmax())]
        assert row["probabilities"] == pytest.approx(kept.probabilities[0, [2, 0]].tolist(), rel=1e-5)
        assert row["efficiency_gap"] == pytest.approx(kept.efficiency_gap[0, [2, 0]].tolist(), rel=1e-5)
        assert row["evaluations"] == 20
        errors = kept.stderr[0, [2, 0]].square().mean(dim=(1, 2)).sqrt()
        assert row["stderr"] == pytest.approx(errors.tolist(), rel=1e-5)


def test_a_page_shows_all_pictures_by_their_files_names(capsys):
    words = "explain run pictures pictures/dog/1.png --out out --batch 2 --html --classes dog"
    assert status(*words.split()) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5
    page = (Path("out") / "explanations.html").read_text(encoding="utf-8")
    found = json.loads(page.split('id="explorer-data">')[1].split("</script>")[0])
    assert found["names"] == ["cat/1", "cat/1-2", "dog/1", "1"]
    assert found["views"][0]["classes"] == [[1]] * 4


@pytest.mark.parametrize(
    ("task", "link", "key"),
    [
        ("multilabel", "sigmoid", "probabilities"),
        ({"name": "regression", "params": {"mean": [5.0] * 3, "spread": [2.0] * 3}}, "identity", "predictions"),
    ],
)
def test_other_tasks_say_what_they_predict(capsys, task, link, key):
    changes = {"task": task, "link": link}
    save_model(Path("other"), small.explainer(**changes), small.explainer_description(**changes))
    assert status("explain", "other", "pictures/cat/1.png", "--out", "out") == 0
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    kept = Explanation.load(row["values"])
    assert row[key] == pytest.approx(kept.predictions[0].tolist(), rel=1e-5)
    assert row["predicted"] == kept.task.in_words(kept.predictions[0], ["cat", "dog", "eel"])
    assert {"probabilities", "predictions"} & row.keys() == {key}


def test_of_many_classes_the_most_probable_are_listed(capsys):
    names = [f"class {number}" for number in range(12)]
    network = small.network("resnet", num_classes=12)
    changes = {
        "network": small.explainer_description()["network"] | {"num_classes": 12},
        "surrogate": small.explainer_description()["surrogate"] | {"classifier": network},
        "classifier": network,
        "class_names": names,
    }
    save_model(Path("many"), small.explainer(**changes), small.explainer_description(**changes))
    assert status("explain", "many", "pictures/cat/1.png", "--out", "out") == 0
    (row,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert len(row["classes"]) == 10
    assert row["classes"][0] == row["predicted"]
    assert row["probabilities"] == sorted(row["probabilities"], reverse=True)
    assert "stderr" not in row


def test_what_is_in_the_way_is_never_a_picture(capsys):
    """Neither are pictures replaced by figures, nor figures of an earlier start explained."""
    before = Path("pictures/cat/1.png").read_bytes()
    for _ in range(2):
        assert status("explain", "run", "pictures/cat/1.png", "--out", "pictures/cat") == 0
        assert status("explain", "run", "pictures", "--out", "pictures/out") == 0
    assert Path("pictures/cat/1.png").read_bytes() == before
    assert files("pictures/cat") == ["1-2.npz", "1-2.png", "1.bmp", "1.png"]
    assert not any("pictures/out/" in json.loads(line)["path"] for line in capsys.readouterr().out.splitlines())


def test_pictures_in_any_number_go_to_parquet_files(capsys, explainer):
    Path("more.txt").write_text("pictures/dog/1.png\npictures/nothing.png\n")
    words = "explain run pictures more.txt --out out --parquet --top 2 --refine 20 --batch 2"
    for _ in range(2):  # the second time nothing is left to do
        assert status(*words.split()) == 0
        said = capsys.readouterr()
        assert json.loads(said.out) == {"out": "out", "pictures": 6, "failed": 2}
        assert said.err == "2 of 6 pictures could not be read: out/failed.jsonl\n"
    read = read_explanations("out")
    paths = ["pictures/cat/1.bmp", "pictures/cat/1.png", "pictures/dog/1.png", "pictures/dog/1.png"]
    assert [row.path for row in read] == paths
    expected = explainer.explain(paths[:1], refine=20)
    assert next(iter(read)).classes[0] == expected.classes[int(expected.probabilities.argmax())]
    assert [line["path"] for line in read.failed] == ["pictures/dog/broken.png", "pictures/nothing.png"]
    assert status(*words.split(), "--top", "1") == 2
    assert "of other pictures, settings or another explainer" in capsys.readouterr().err
    with FileLock("out/.lock"):
        assert status(*words.split()) == 2
    assert capsys.readouterr().err == "error: --out out: another process is writing there\n"


def test_where_no_picture_can_be_read_it_fails(capsys):
    assert status("explain", "run", "pictures/dog/broken.png", "--out", "out") == 2
    said = capsys.readouterr()
    assert "error" in json.loads(said.out)
    assert said.err.endswith("1 of 1 pictures could not be read\n")
    assert files("out") == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("", "the following arguments are required: COMMAND; fastshap-lab --help lists the options"),
        ("exlain run", "argument COMMAND: invalid choice: 'exlain'"),
        ("explain run pictures", "the following arguments are required: --out; fastshap-lab explain --help says"),
        ("explain run pictures --out out --refine many", "argument --refine: invalid int value: 'many'"),
        ("explain run nothing.png --out out", "nothing.png: no such file or folder"),
        ("explain nothing pictures --out out", "nothing: no model folder, and no user/name of the hub"),
        ("explain pictures pictures --out out", "pictures: no model folder"),
        ("explain run run --out out", "run: no picture in it (.bmp .gif "),
        ("explain run pictures --out pictures", "--out pictures: holds the pictures; choose another folder"),
        ("explain run pictures --out pictures/notes.txt", "pictures/notes.txt: File exists; choose a --out that is"),
        (
            "explain run pictures --out pictures/notes.txt/out",
            "pictures/notes.txt/out: Not a directory; choose a --out",
        ),
        ("explain run pictures --out out --batch 0", "max_batch=0: must be a whole number of 1 or more"),
        ("explain run pictures --out out --refine 1", "refine=1: must be 2 or more, coalitions come in pairs"),
        ("explain run pictures --out out --tolerance 0.1", "--tolerance: says when to stop refining; give --refine"),
        ("explain run pictures --out out --classes dgo", "class dgo: unknown, did you mean dog? known: cat, dog, eel"),
        ("explain run pictures --out out --top 2", "--top: of Parquet files; give --parquet, too"),
        ("explain run pictures --out out --parquet --classes cat", "--classes: of figures; with --parquet give --top"),
        ("explain run nothing --out out --parquet", "nothing: no such file or folder, and no user/name of the hub"),
        ("explain run pictures/dog/broken.png --out out --parquet", "out/failed.jsonl: none of 1 pictures could"),
        ("explain run pictures --out out --device nowhere", "--device nowhere: "),
        ("explain run pictures --out out --device meta", "--device meta: "),
        ("export nothing e.pt2", "nothing: no model folder, and no user/name of the hub"),
        ("export run e.onnx --calibration nothing", "nothing: no such file or folder"),
        ("export pictures e.pt2", "pictures: no model folder"),
        ("export run e.txt", "e.txt: the suffix chooses the format"),
        ("export run e.pt2 --precision half", "precision=half: unknown"),
        (
            "export run pictures/notes.txt/e.pt2",
            "pictures/notes.txt/e.pt2: File exists; choose a place for OUT that is",
        ),
        ("report run", "run: a run of the stage explainer; reports are made by the stage evaluate"),
        ("report pictures", "pictures: no finished evaluate run; fastshap-lab train makes one"),
    ],
)
def test_a_mistake_is_one_line(words, line, capsys):
    assert status(*words.split()) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {line}")
    assert said.err.count("\n") == 1
    assert not said.out


def test_export_writes_a_file_and_replaces_none_unasked(capsys):
    words = ["export", "run", "out/e.pt2"]
    assert status(*words) == 0
    path, size = capsys.readouterr().out.split(maxsplit=1)
    assert (path, files("out")) == ("out/e.pt2", ["e.pt2"])
    assert size == f"{Path(path).stat().st_size / 2**20:.1f} MiB\n"
    Path(path).write_text("another's")
    assert status(*words) == 2
    assert capsys.readouterr().err == "error: out/e.pt2: exists; choose another name, or have it replaced\n"
    assert status(*words, "--replace") == 0
    assert Path(path).read_bytes()[:2] == b"PK"


def evaluate_run(name: str, condition: str = "finished", **measures: float) -> Path:
    folder = Path("runs/evaluate", name)
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"stage": "evaluate", "status": condition}))
    (folder / "metrics.json").write_text(json.dumps(measures))
    (folder / "report.html").touch()
    return folder


def test_report_names_the_pages_of_finished_evaluations_and_what_they_measured(capsys):
    new = {"A/r2": 0.9, "A/r2_low": 0.85, "A/r2_high": 0.925, "A/mse": 1e-4, "B/r2": -0.5, "B/spearman": 0.25}
    folder = evaluate_run("one", **new)
    evaluate_run("two")
    evaluate_run("three", "interrupted")
    for given in ("runs", "runs/evaluate"):
        assert status("report", given) == 0
        assert capsys.readouterr().out.splitlines() == [
            "runs/evaluate/one/report.html",
            "  A: R² 0.900 [0.850, 0.925]",
            "  B: R² -0.500  Spearman 0.250",
            "runs/evaluate/two/report.html",
            "  not measured against true Shapley values",
        ]
    assert status("report", "runs/evaluate/three") == 2
    assert "runs/evaluate/three: interrupted, not finished" in capsys.readouterr().err
    for name in ("metrics.json", "report.html"):
        (folder / name).unlink()
        assert status("report", "runs/evaluate/two", str(folder)) == 2
        said = capsys.readouterr()
        assert f"{folder / name}: missing" in said.err
        (folder / name).write_text("{}")


def test_the_doctor_says_what_there_is_and_that_values_are_exact(capsys):
    assert status("doctor") == 0
    said = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert said["torch"] == torch.__version__
    assert said["threads"].startswith(f"{torch.get_num_threads()} ")
    assert re.search(r"cores to use, .*, bfloat16: ", said["cpu"])
    assert said["runs"].startswith(f"{Path('runs').absolute()}: writable, ")
    assert re.match(r"(cpu|cuda:\d): Shapley values are exact \(off by ", said["self-test"])
    assert not Path("runs").exists()


def test_the_doctor_fails_where_values_are_wrong(capsys, monkeypatch):
    orders = commands.permutations
    monkeypatch.setattr(commands, "permutations", lambda players: list(orders(players))[20:])  # some are left out
    assert status("doctor") == 1
    assert "Shapley values are WRONG" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_one_line_and_leaves_whole_files(number, code, monkeypatch, capsys):
    before, save, saved = signal.getsignal(number), Explanation.save, []

    def interrupted(explanation: Explanation, path: Path) -> None:
        if saved:
            os.kill(os.getpid(), number)
        saved.append(path)
        save(explanation, path)

    monkeypatch.setattr(Explanation, "save", interrupted)
    assert status("explain", "run", "pictures", "--out", "out") == code
    said = capsys.readouterr()
    assert said.err == "interrupted; every file that was written is whole\n"
    (row,) = map(json.loads, said.out.splitlines())
    assert len(Explanation.load(row["values"])) == 1
    assert not list(Path("out").rglob(".*"))
    assert signal.getsignal(number) == before


def test_a_reader_that_has_enough_is_no_mistake(monkeypatch, capsys):
    evaluate_run("one")
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        assert status("report", "runs") == 141
    assert not capsys.readouterr().err


def test_help_needs_no_pytorch():
    code = "import sys, fastshap_lab.commands as c; c.parser(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_it_is_installed_under_its_name():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    module, _, function = scripts["fastshap-lab"].partition(":")
    assert getattr(import_module(module), function) is main


def documented() -> list[str]:
    pages = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
    lines = [line for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    return [line.partition("#")[0].partition(" > ")[0] for line in lines if line.startswith("fastshap-lab ")]


def test_commands_of_the_docs_are_understood():
    words = [shlex.split(line)[1:] for line in documented()]
    found = [parser().parse_args(given).run for given in words if given[0] != "train"]  # that is for Hydra to read
    assert {run.__name__ for run in found} == {"_explain", "_export", "_push", "_pull", "_report", "_doctor"}


def test_train_is_train_py(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fastshap-lab"])
    main(["train", "--cfg", "job", "seed=3"])
    assert "\nseed: 3\n" in capsys.readouterr().out
    assert status("train", "sed=3") == 2
    assert capsys.readouterr().err.startswith("error: sed: unknown key, did you mean seed?")
