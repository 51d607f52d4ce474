"""The examples in docstrings run."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

from tests.docstrings import EXAMPLES, PACKAGE

MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for package in EXAMPLES
    for path in ((PACKAGE / package).rglob("*.py") if package else PACKAGE.glob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0
