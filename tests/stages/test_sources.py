"""The code of a component from outside of the package counts in fingerprints; that of the package's own does not."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from fastshap_lab.data import DATASETS
from fastshap_lab.data.synthetic import Synthetic
from fastshap_lab.errors import UserError
from fastshap_lab.models import CLASSIFIERS
from fastshap_lab.runs.plan import runs_of
from fastshap_lab.stages import STAGES
from fastshap_lab.stages.sources import _TABLES, with_sources
from tests.small_runs import configured

NETWORK = """
from bases_of_mine import Base

class Mine(Base):
    {stated}

    def forward(self, pixels):
        return self.head(pixels.mean(dim=(2, 3))) * {factor}
"""
ALL = {"classifier", "surrogate", "labels", "explainer", "evaluate"}


def fingerprints(*overrides: str) -> dict[str, str]:
    """Return the fingerprint of each stage, whether or not it could be built."""
    config = configured(*overrides)
    return {run.stage.name: run.fingerprint for run in runs_of({"one": config}, config, STAGES)}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {stage for stage in before if before[stage] != after[stage]}


@pytest.fixture
def mine(tmp_path, monkeypatch) -> Callable[..., Any]:
    """Return what writes a component into a module, which builds on another one, and imports it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def imported(factor: int = 1, stated: str = "size = 3", base: str = "size = 2") -> Any:
        (tmp_path / "bases_of_mine.py").write_text(f"class Base:\n    {base}\n")
        (tmp_path / "networks_of_mine.py").write_text(NETWORK.format(factor=factor, stated=stated))
        for name in ("bases_of_mine", "networks_of_mine"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        return __import__("networks_of_mine").Mine

    return imported


def test_the_source_of_a_network_counts_or_the_version_that_it_states(mine, monkeypatch):
    def of(component: Any) -> dict[str, str]:
        monkeypatch.setitem(CLASSIFIERS, "mine", component)
        return fingerprints("classifier.name=mine")

    first = of(mine())
    assert of(mine()) == first
    assert changed(first, of(mine(factor=100))) == ALL
    assert changed(first, of(mine(base="size = 200"))) == ALL
    assert changed(of(partial(mine(), depth=1)), of(partial(mine(), depth=2))) == ALL
    stated = of(mine(stated="version = 1"))
    assert of(mine(factor=100, stated="version = 1")) == stated
    assert changed(stated, of(mine(stated="version = 2"))) == ALL
    namespace: dict[str, Any] = {"__name__": "nowhere"}
    exec("class Mine: ...", namespace)
    with pytest.raises(UserError, match=r"^CLASSIFIERS\['mine'\]: its source cannot be read.*give Mine an attribute"):
        of(namespace["Mine"])


@pytest.mark.parametrize(
    ("table", "override", "stages"),
    [
        ("MASKINGS", "surrogate.masking=mine", ALL - {"classifier"}),
        ("EXPLAINERS", "explainer.name=mine", {"explainer", "evaluate"}),
        ("LINKS", "explainer.link=mine", {"labels", "explainer", "evaluate"}),
        ("METHODS", "evaluate.methods={other: {name: mine}}", {"evaluate"}),
        ("FEEDERS", "evaluate.metrics={other: {name: mine}}", {"evaluate"}),
        ("CHECKS", "evaluate.checks={other: {name: mine}}", {"evaluate"}),
    ],
)
def test_a_component_counts_where_it_is_named_and_in_what_builds_on_that(mine, monkeypatch, table, override, stages):
    monkeypatch.setitem(_TABLES[table], "mine", mine())
    before = fingerprints(override)
    monkeypatch.setitem(_TABLES[table], "mine", mine(factor=100))
    assert changed(before, fingerprints(override)) == stages


def test_a_data_set_counts_with_its_code_beside_its_content(mine, monkeypatch):
    def of(factor: int) -> dict[str, str]:
        monkeypatch.setitem(
            DATASETS, "mine", type("Mine", (mine(factor), Synthetic), {"__module__": "networks_of_mine"})
        )
        return fingerprints("data.name=mine")

    assert changed(of(1), of(100)) == ALL
    assert of(1) == of(1)


def test_the_packages_own_components_leave_settings_as_they_are():
    """Those of a later version than the first state it, so that what an earlier one made is made again."""
    entries = [entry for table in _TABLES.values() for entry in table.items()]
    settings = {"names": [name for name, kind in entries if getattr(kind, "version", 1) == 1]}
    assert with_sources(settings) == settings
