"""What a run is: fingerprints, folders, records, locks, reuse."""

import dataclasses
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from rich.console import Console

from fastshap_lab.config import ComponentConfig, Config
from fastshap_lab.errors import UserError
from fastshap_lab.files import write_atomically
from fastshap_lab.inference import load_surrogate
from fastshap_lab.runs.execute import execute
from fastshap_lab.runs.plan import runs_of, show
from fastshap_lab.runs.run import Run
from fastshap_lab.stages import STAGES
from fastshap_lab.training.training import Training
from tests.parts import first
from tests.small_runs import configured, executed, planned

CONFIGS = {loss: configured(f"explainer.loss={loss}") for loss in ("labels", "fastshap")}
ALL = {"classifier", "surrogate", "labels", "explainer", "evaluate"}
NONE: set[str] = set()
# Which stages' fingerprints a key counts for: the longest prefix that is listed decides.
COUNTS_FOR = {
    "stage": NONE,
    "name": NONE,
    "seed": ALL,
    "runs_dir": NONE,
    "dry_run": NONE,
    "prune": NONE,
    "debug": NONE,
    "vars": NONE,
    "data": ALL,
    "data.grid": ALL - {"classifier"},
    "classifier": ALL,
    "surrogate": ALL - {"classifier"},
    "explainer": {"explainer", "evaluate"},
    "explainer.link": {"labels", "explainer", "evaluate"},
    "explain": NONE,  # a stage that is there only where it is asked for
    "references": {"evaluate"},
    "references.val": {"explainer", "evaluate"},
    "references.val_evaluations": {"explainer", "evaluate"},
    "references.kriging_tolerance": {"explainer", "evaluate"},
    "evaluate": {"evaluate"},
    "trainer": NONE,
    "trainer.precision": ALL,
    "logger": NONE,
}
OF_LABELS = {
    "explainer.labels": {"labels", "explainer", "evaluate"},
    "explainer.sampler": NONE,
    "explainer.num_coalitions": NONE,
    "explainer.augment": NONE,
}
OF_FASTSHAP = {"explainer.labels": NONE}
# Where the next number or the opposite truth value would not do.
OTHER = {
    "stage": "evaluate",
    "name": "other",
    "runs_dir": "elsewhere",
    "data.name": None,  # counts by the images
    "data.params": {"num_classes": 3, "image_size": 16, "num_train": 48, "num_val": 24, "num_test": 25},
    "data.grid": [4, 4],
    "data.task": "multilabel",
    "classifier.name": "vit",
    "surrogate.name": "vit",
    "explainer.name": "vit",
    "classifier.weights": None,  # count by what lies there
    "classifier.path": None,
    "classifier.mean": [0.5, 0.5, 0.5],
    "classifier.std": [0.5, 0.5, 0.5],
    "optim.name": "sgd",
    "optim.schedule": "plateau",
    "optim.clip_norm": 2.0,
    "params": {},
    "augment.padding_mode": "border",
    "augment.policy": "cifar10",
    "classifier.pretrain": None,  # with it a stage comes or goes
    "classifier.teacher": None,  # counts by what lies there
    "surrogate.loss": "reverse_kl",
    "vars": {"mine": "yours"},
    "patience": 3,
    "references.kriging_tolerance": 0.05,
    "surrogate.masking": "attention",
    "explainer.link": "log_odds",
    "explainer.normalization": "none",
    "explainer.loss": None,  # with it a stage comes or goes
    "explainer.sampler": "kernel",
    "explainer.monitor": "shapley_error",
    "explain.images": "pictures",
    "explain.split": "test",
    "explain.image_column": "image",
    "explain.top": 2,
    "explain.tolerance": 0.1,
    "evaluate.pipelines": None,  # counts by the explainers
    "evaluate.methods": {"mine": ComponentConfig("rise")},
    "evaluate.metrics": {"mine": ComponentConfig("deletion")},
    "evaluate.checks": {"mine": ComponentConfig("roar")},
    "evaluate.sections": ["models"],
    "evaluate.published": {"methods": {"mine": {"seconds": 1.0}}},
    "trainer.accelerator": "cpu",
    "trainer.devices": "1",
    "trainer.strategy": "ddp",
    "trainer.precision": "64-true",
    "logger.name": "wandb",
    "logger.project": "other",
    "logger.mode": "offline",
}


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(config):
        value, key = getattr(config, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{key}.")
        else:
            yield key, value


def changed(config: Config, key: str, value: Any) -> Config:
    head, _, rest = key.partition(".")
    return dataclasses.replace(config, **{head: changed(getattr(config, head), rest, value) if rest else value})


def fingerprints(config: Config) -> dict[str, str]:
    """Return the fingerprint of each stage, whether or not it could be built."""
    return {run.stage.name: run.fingerprint for run in runs_of({"one": config}, config, STAGES)}


@pytest.fixture(scope="module", params=["labels", "fastshap"])
def before(request):
    return request.param, fingerprints(CONFIGS[request.param])


@pytest.mark.parametrize(
    ("key", "value"), list(leaves(CONFIGS["labels"])), ids=[key for key, _ in leaves(CONFIGS["labels"])]
)
def test_a_key_counts_for_the_stages_it_can_change(before, key, value):
    loss, prints = before
    suffixes = [key.split(".", depth)[-1] for depth in range(key.count(".") + 1)]
    other = next((OTHER[suffix] for suffix in suffixes if suffix in OTHER), ...)
    if other is None:
        return
    if other is ...:
        other = not value if isinstance(value, bool) else value + 1
    assert other != value
    counts_for = COUNTS_FOR | (OF_LABELS if loss == "labels" else OF_FASTSHAP)
    known = max((prefix for prefix in counts_for if key == prefix or key.startswith(f"{prefix}.")), key=len)
    after = fingerprints(changed(CONFIGS[loss], key, other))
    assert {stage for stage in prints if prints[stage] != after[stage]} == counts_for[known] & prints.keys()


def test_a_masking_counts_by_its_name_alone_unless_it_has_arguments():
    def surrogate(*overrides: str) -> Run:
        return planned("stage=surrogate", *overrides)[-1]

    plain = surrogate("surrogate.masking=blur")
    assert plain.settings["surrogate"]["masking"] == "blur"  # as runs of before have it
    assert surrogate("surrogate.masking={name: blur}").fingerprint == plain.fingerprint
    assert surrogate("surrogate.masking={name: blur, params: {}}").fingerprint == plain.fingerprint
    wide = surrogate("surrogate.masking={name: blur, params: {width: 3}}")
    assert wide.settings["surrogate"]["masking"] == {"name": "blur", "params": {"width": 3}}
    assert wide.fingerprint != plain.fingerprint
    again = surrogate("surrogate.masking={name: blur, params: {width: 2}}", "surrogate.masking.params.width=3")
    assert again.fingerprint == wide.fingerprint
    both = "surrogate.masking={name: blur, params: {width: 2}}", "surrogate.masking=blur"
    assert surrogate(*both).fingerprint == plain.fingerprint  # the last word


def test_a_surrogate_of_a_masking_with_arguments_is_trained_and_loaded(tmp_path):
    colour = [0.25, 0.5, 0.75]
    chosen = f"surrogate.masking={{name: constant, params: {{colour: {colour}}}}}"
    *_, run = executed("stage=surrogate", "surrogate.epochs=1", chosen, f"runs_dir={tmp_path}")
    surrogate = load_surrogate(run.model)
    image, nobody = torch.tensor(colour).view(1, 3, 1, 1).expand(1, 3, 16, 16), torch.zeros(1, 1, 4, dtype=torch.bool)
    torch.testing.assert_close(surrogate(torch.rand(1, 3, 16, 16), nobody), surrogate(image, ~nobody))


def test_a_pipeline_counts_by_its_explainer_and_its_name():
    def evaluate(overrides: str, name: str = "A") -> str:
        chosen = f"classifier: resnet_slim, surrogate: resnet_slim, explainer: unet_slim, overrides: [{overrides}]"
        return planned(f"evaluate.pipelines={{{name}: {{{chosen}}}}}")[-1].fingerprint

    assert evaluate("") == evaluate("'explainer.epochs=3'")  # as it is anyway
    assert evaluate("") != evaluate("'explainer.epochs=4'")
    assert evaluate("") != evaluate("", name="B")  # stands in tables and figures


def test_a_stage_makes_what_it_needs_and_no_more(tmp_path):
    runs = executed("stage=surrogate", f"runs_dir={tmp_path}")
    assert [run.stage.name for run in runs] == ["classifier", "surrogate"]
    assert {path.name for path in tmp_path.iterdir()} == {"classifier", "surrogate"}


def test_a_run_is_found_again_under_another_name(tmp_path):
    (first,) = executed("stage=classifier", f"runs_dir={tmp_path}", "name=first")
    (again,) = planned("stage=classifier", f"runs_dir={tmp_path}", "name=second")
    assert first.folder.name.startswith("first-resnet-")
    assert (again.folder, again.action) == (first.folder, "reuse")


def test_a_run_whose_model_was_deleted_is_made_again(tmp_path):
    (run,) = executed("stage=classifier", f"runs_dir={tmp_path}")
    weights = (run.model / "model.safetensors").read_bytes()
    for path in run.model.iterdir():
        path.unlink()
    run.model.rmdir()
    assert run.action == "resume"
    executed("stage=classifier", f"runs_dir={tmp_path}")
    assert (run.model / "model.safetensors").read_bytes() == weights


def test_a_failed_run_says_so_and_starts_again(tmp_path, monkeypatch):
    settings = ["stage=classifier", f"runs_dir={tmp_path}"]
    with monkeypatch.context() as patch:
        patch.setattr(Training, "configure_optimizers", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            executed(*settings)
    (run,) = planned(*settings)
    failed = run.record()
    assert (failed["status"], run.action) == ("failed", "train")
    executed(*settings)
    finished = run.record()
    assert (finished["status"], run.action) == ("finished", "reuse")
    assert finished["id"] == failed["id"]
    assert finished["seconds"] > failed["seconds"]
    assert finished["parents"] == {}
    assert {"git", "versions", "hardware", "settings", "fingerprint"} <= set(finished)


def test_the_second_process_waits_says_so_and_reuses(tmp_path, capsys):
    (run,) = executed("stage=classifier", f"runs_dir={tmp_path}")
    record = run.record()
    (run.folder / "run.json").write_text(json.dumps(record | {"status": "running"}))
    lock, held = FileLock(tmp_path / "classifier" / f".{run.fingerprint[:8]}.lock"), threading.Event()

    def another_process() -> None:
        with lock:
            held.set()
            time.sleep(0.5)
            write_atomically(run.folder / "run.json", json.dumps(record))

    threading.Thread(target=another_process).start()
    held.wait()
    run.stage = dataclasses.replace(run.stage, make=lambda run: pytest.fail("it was there"))
    execute([run], Console(width=80))
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"classifier  waiting for another process, which makes {run.folder}"
    assert said[1].split()[:2] == ["classifier", "reused"]


def test_what_another_process_makes_is_left_to_it_while_there_is_something_else_to_do(tmp_path, capsys):
    pipelines = "evaluate.pipelines={A: {classifier: resnet_slim}, B: {classifier: resnet_slim, overrides: ['seed=1']}}"
    first, second = planned("stage=classifier", f"runs_dir={tmp_path}", pipelines)
    first.folder.parent.mkdir(parents=True)
    lock, held = FileLock(tmp_path / "classifier" / f".{first.fingerprint[:8]}.lock"), threading.Event()

    def another_process() -> None:
        with lock:
            held.set()
            while not second.finished:
                time.sleep(0.05)
            time.sleep(1)

    thread = threading.Thread(target=another_process)
    thread.start()
    held.wait()
    execute([first, second], Console(width=80))
    thread.join()
    said = [" ".join(line.split()[:3]) for line in capsys.readouterr().out.splitlines()]
    assert [words.rpartition(" ")[0] for words in said] == [
        "classifier trained",
        "classifier waiting",
        "classifier trained",
    ]
    assert first.finished


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> list[Run]:
    """Return the runs of all stages."""
    return executed(f"runs_dir={tmp_path_factory.mktemp('runs')}")


def copied(whole: list[Run], folder: Path) -> list[Run]:
    shutil.copytree(whole[0].config.runs_dir, folder)
    return planned(f"runs_dir={folder}")


def damage(path: Path, how: str) -> None:
    """Let a file be missing, empty, cut short, another text, or a folder."""
    content = path.read_bytes()
    path.unlink()
    if how == "a folder":
        path.mkdir()
    elif how != "missing":
        path.write_bytes({"empty": b"", "cut short": content[:-20], "other": content.replace(b"0", b"1")}[how])


@pytest.mark.parametrize(
    ("stage", "name", "how"),
    first(
        6,
        [
            ("classifier", "run.json", "cut short"),
            ("classifier", "metrics.json", "other"),
            ("classifier", "metrics.csv", "empty"),
            ("classifier", "model/config.json", "a folder"),
            ("classifier", "model/model.safetensors", "missing"),
            ("evaluate", "report.html", "missing"),
            ("classifier", "run.json", "empty"),
            ("classifier", "metrics.json", "missing"),
            ("classifier", "metrics.csv", "other"),
            ("classifier", "model/config.json", "other"),
            ("labels", "labels/000-00000.safetensors", "missing"),
            ("evaluate", "metrics.json", "cut short"),
        ],
    ),
)
def test_what_is_gone_or_changed_is_said_and_made_again(whole, tmp_path, capsys, stage, name, how):
    runs = copied(whole, tmp_path / "runs")
    run = next(run for run in runs if run.stage.name == stage)
    path, uninterrupted = run.folder / name, (run.folder / name).read_bytes()
    damage(path, how)
    show(runs, Console(width=80))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    verb = "resume" if run.stage.trains else "make"
    assert [words[:2] for words in lines if words[1] not in ("reuse", "total:")] == [[stage, verb], [stage, "again:"]]
    assert lines[[words[1] for words in lines].index("again:")][2] == f"{path}:"
    execute(runs, Console(quiet=True))
    assert run.finished
    if name != "run.json":  # which says when
        assert path.read_bytes() == uninterrupted


@pytest.mark.parametrize("name", ["run.json", "metrics.json", "metrics.csv", "checkpoints/last.ckpt"])
def test_a_folder_in_the_place_of_a_file_is_named_before_anything_starts(whole, tmp_path, name):
    run = copied(whole, tmp_path / "runs")[0]
    (run.folder / "run.json").unlink()  # so that it is not finished
    (run.folder / name).unlink(missing_ok=True)
    (run.folder / name).mkdir()
    with pytest.raises(
        UserError, match=f"{run.folder / name}: is a folder, and a file must be written in its place; move it"
    ):
        show([run], Console(quiet=True))


def test_damaged_measures_of_runs_from_before_digests_are_named(whole, tmp_path):
    run = copied(whole, tmp_path / "runs")[0]
    record = run.record()
    del record["files"]
    (run.folder / "run.json").write_text(json.dumps(record))
    assert run.action == "reuse"
    for name, read in (("metrics.json", run.measures), ("metrics.csv", run.history)):
        (run.folder / name).write_text("")
        with pytest.raises(UserError, match=rf"{name}: damaged; delete {run.folder}/run.json, and the same command"):
            read()
    (run.folder / "metrics.json").unlink()
    assert run.action == "resume"


def test_a_run_is_known_by_its_whole_fingerprint(whole, tmp_path):
    run, record = copied(whole, tmp_path / "runs")[0], whole[0].record()
    others = run.folder
    (others / "run.json").write_text(json.dumps(record | {"fingerprint": record["fingerprint"][:8] + 56 * "0"}))
    before = {path: path.stat().st_mtime_ns for path in others.rglob("*")}
    assert (run.action, run.folder.name) == ("train", f"{run.name}-{run.fingerprint[:16]}")
    executed("stage=classifier", f"runs_dir={tmp_path / 'runs'}")
    assert run.finished
    assert before == {path: path.stat().st_mtime_ns for path in others.rglob("*")}
    (others / "run.json").write_text(json.dumps(record))
    assert run.folder == others
    for folder in (others, run.folder.with_name(f"{run.name}-{run.fingerprint[:16]}")):
        (folder / "run.json").write_text(json.dumps(record | {"fingerprint": "another"}))
    with pytest.raises(UserError, match=r"run.json: belongs to another run; move its folder away"):
        _ = run.action


def test_what_a_later_stage_builds_on_must_not_vanish_or_change(whole, tmp_path):
    runs = copied(whole, tmp_path / "runs")
    first, second = runs[:2]
    (second.folder / "run.json").unlink()

    def make(run: Run) -> dict[str, float]:
        shutil.rmtree(first.model)
        return {"test/kl": 0.0, "test/masked_kl": 0.0, "test/accuracy": 1.0}

    second.stage = dataclasses.replace(second.stage, make=make)
    line = (
        f"^{first.model / 'config.json'}: missing; the stage .* needs it: run the same command again, which makes it$"
    )
    with pytest.raises(UserError, match=line):
        execute(runs, Console(quiet=True))
    shutil.copytree(whole[0].model, first.model)
    (first.model / "config.json").write_text((first.model / "config.json").read_text().replace("[", " ["))
    with pytest.raises(
        UserError, match=r"model/config.json: changed since it was written; the stage surrogate needs it"
    ):
        execute([second], Console(quiet=True))
    shutil.rmtree(first.folder)
    with pytest.raises(UserError, match=f"^{first.folder}: not finished; the stage surrogate needs it"):
        execute([second], Console(quiet=True))
