"""What is built and installed, used away from a clone."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
SMALL = [
    *(f"{stage}.epochs=1" for stage in ("classifier", "surrogate", "explainer")),
    "explainer.labels={evaluations: 8, copies: 0}",
    "references={val: 2, val_evaluations: 64, test: 2, test_evaluations: 64}",
    "evaluate={images_shown: 2, bootstrap: 10}",
]


def run(*words: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def built(kind: str, source: Path, target: Path) -> Path:
    """Build as ``python -m build --no-isolation`` does; return the archive."""
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    run(sys.executable, "-c", code, str(target), cwd=source)
    [archive] = target.iterdir()
    return archive


@pytest.mark.slow
def test_the_wheel_trains_and_serves_outside_of_a_clone(tmp_path):
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    files = {name for name in listed if (ROOT / name).is_file()}
    source = tmp_path / "source"
    for name in {*files, "runs/classifier/one/run.json"}:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / (name if name in files else "pyproject.toml"), source / name)

    sdist = built("sdist", source, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(tmp_path / "unpacked", filter="data")
    package = {name for name in files if name.startswith("fastshap_lab/")}
    beside = {"LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg"}
    found = {name for name in inside if (tmp_path / "unpacked" / sdist.name.removesuffix(".tar.gz") / name).is_file()}
    assert {name for name in found if not name.startswith("fastshap_lab.egg-info/")} == package | beside

    wheel = built("wheel", tmp_path / "unpacked" / sdist.name.removesuffix(".tar.gz"), tmp_path / "wheel")
    with ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == package

    # An environment of its own within somebody's working copy; of the present one it sees what ours depends on.
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    run("git", "init", "--quiet", cwd=tmp_path)
    run("git", *identity, "commit", "--quiet", "--allow-empty", "--message=0", cwd=tmp_path)
    venv.create(tmp_path / "environment", symlinks=True)
    python = tmp_path / "environment" / "bin" / "python"
    [libraries] = (tmp_path / "environment").glob("lib/*/site-packages")
    (libraries / "present.pth").write_text("\n".join({sysconfig.get_path(kind) for kind in ("purelib", "platlib")}))
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index"]
    run(*pip, "--ignore-installed", wheel, cwd=tmp_path)

    empty = tmp_path / "empty"
    (empty / "mine" / "experiment").mkdir(parents=True)
    (empty / "mine" / "experiment" / "short.yaml").write_text("# @package _global_\nname: short\n")
    program = tmp_path / "environment" / "bin" / "fastshap-lab"
    words = ["train", "--config-dir", "mine", "experiment=short", "trainer.accelerator=cpu", *SMALL]
    assert "load_explainer" in run(program, *words, cwd=empty)
    [folder] = empty.glob("runs/explainer/short-*")
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert (record["status"], record["git"]) == ("finished", {})
    assert "report.html" in run(program, "report", "runs", cwd=empty)
    code = "import sys, fastshap_lab as fsl; print(fsl.__file__, fsl.load_explainer(sys.argv[1]).class_names)"
    where, names = run(python, "-c", code, folder, cwd=empty).split(maxsplit=1)
    assert Path(where).is_relative_to(libraries)
    assert names.startswith("['0', '1'")
