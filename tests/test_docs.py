import re
import shlex
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from docs import configuration
from fastshap_lab.choices import CONFIGS
from fastshap_lab.compose import composed
from fastshap_lab.config import Config, LoggerConfig
from fastshap_lab.models.tasks import TASKS, Multiclass

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
COMMAND = re.compile(r"(?:python train\.py|fastshap-lab train)((?: +[\w.]+=[^\s`;]+)*)")


def keys_of_schema(schema, prefix=""):
    """Yield every key with its default, as YAML writes it."""
    for field in fields(schema):
        if is_dataclass(field.type):
            yield from keys_of_schema(field.type, f"{prefix}{field.name}.")
        else:
            default = field.default if field.default_factory is NO_DEFAULT else field.default_factory()
            words = {"None": "null", "True": "true", "False": "false"}
            yield prefix + field.name, words.get(str(default), str(default))


def keys_of_docs():
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        groups = re.findall(r"`(\w+)`", section.splitlines()[0])
        for key, default in re.findall(r"^\| `([\w.]+)` \| `([^`]*)` \|", section, flags=re.MULTILINE):
            yield from ((f"{group}.{key}", default) for group in groups) if groups else [(key, default)]


def test_every_key_is_documented_with_its_default():
    assert dict(keys_of_schema(Config)).items() <= dict(keys_of_docs()).items()


def test_the_page_of_the_configuration_is_the_generated_one():
    committed = configuration.PAGE.read_text(encoding="utf-8")
    assert configuration.page(committed) == committed, "run python docs/configuration.py"
    assert len(configuration.GENERATED.findall(committed)) == committed.count("<!-- end -->")


def test_the_page_is_made_of_the_schema_and_the_tables(monkeypatch):
    monkeypatch.setitem(TASKS, "ranking", Multiclass)
    monkeypatch.setattr(LoggerConfig.__dataclass_fields__["project"], "default", "mine")
    old = "<!-- generated: data -->\n<!-- end -->\n<!-- generated: logger -->\n| `gone` |\n<!-- end -->\n"
    text = configuration.page(old)
    assert "`regression`, `ranking`. |" in text
    assert "| `project` | `mine` | Name of the W&B project. |" in text
    assert "gone" not in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`((?:fastshap_lab|tests|docs|notebooks)/[\w/.]*)`", text)
    named += re.findall(r"wandb sweep (\S+)", text)
    assert [path for path in named if not (ROOT / path).exists()] == []


def commands():
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    texts += [path.read_text(encoding="utf-8") for path in sorted(CONFIGS.glob("**/*.yaml"))]
    found = {" ".join(match.split()) for text in texts for match in COMMAND.findall(text)}
    return sorted(command for command in found if not re.search("[<…]", command))


@pytest.mark.parametrize("command", commands())
def test_commands_compose(command):
    composed(shlex.split(command))
