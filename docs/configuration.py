"""Generates the tables of ``docs/configuration.md``: ``python docs/configuration.py``.

Keys, defaults and texts are those of ``fastshap_lab/config.py``, arguments of data sets those of their classes, choices
those of the tables and of ``fastshap_lab/configs/``. The page has a pair of comments around each generated part.
"""

import ast
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import AfterValidator

from fastshap_lab import config
from fastshap_lab.attribution import METHODS
from fastshap_lab.choices import choices
from fastshap_lab.data import DATASETS
from fastshap_lab.evaluation.checks import CHECKS
from fastshap_lab.evaluation.metrics import comparable_metrics
from fastshap_lab.evaluation.sections import SECTIONS
from fastshap_lab.models import CLASSIFIERS, TASKS
from fastshap_lab.models.explainers import EXPLAINERS
from fastshap_lab.models.maskings import MASKINGS
from fastshap_lab.shapley import NORMALIZATIONS, SAMPLERS
from fastshap_lab.stages import STAGES
from fastshap_lab.training.optim import OPTIMIZERS, SCHEDULES

PAGE = Path(__file__).with_suffix(".md")
GENERATED = re.compile(r"(?<=<!-- generated: )([\w ]+)( -->\n).*?(?=<!-- end -->)", flags=re.DOTALL)

_SHARED = {"name", *(one.name for one in fields(config.TrainingConfig))}
_CHOICES: dict[str, Mapping[str, Iterable[str]]] = {
    "stage": {"": [*(stage.name for stage in STAGES), "all"]},
    "data.name": {"": DATASETS},
    "data.task": {"": TASKS},
    "training.name": {"classifier": [*CLASSIFIERS, "checkpoint"], "surrogate": CLASSIFIERS, "explainer": EXPLAINERS},
    "training.optim.name": {"": OPTIMIZERS},
    "training.optim.schedule": {"": SCHEDULES},
    "surrogate.masking": {"": MASKINGS},
    "explainer.link": {name: task.links for name, task in TASKS.items()},
    "explainer.normalization": {"": NORMALIZATIONS},
    "explainer.sampler": {"": SAMPLERS},
    "evaluate.sections": {"": SECTIONS},
    "evaluate.methods": {"": METHODS},
    "evaluate.metrics": {"": comparable_metrics()},
    "evaluate.checks": {"": CHECKS},
}


def page(text: str) -> str:
    """Return the text of the page with its generated parts as they must be."""
    return GENERATED.sub(lambda found: f"{found[1]}{found[2]}\n{_part(found[1])}\n", text)


def _part(name: str) -> str:
    if name == "groups":
        return _table(("Group", "Choices"), ((f"`{group}`", _words(found)) for group, found in choices().items()))
    if name == "data sets":
        return "\n".join(_data_set(entry, kind) for entry, kind in DATASETS.items())
    if name == "root":
        keys = _keys(config.Config, "", own={one.name for one in fields(config.Config) if not is_dataclass(one.type)})
        return _table(("Key", "Default", "Meaning"), keys)
    kinds = {"training": config.TrainingConfig} | {one.name: one.type for one in fields(config.Config)}
    kind = kinds[name]
    own = {one.name for one in fields(kind)} - (_SHARED if name in ("classifier", "surrogate", "explainer") else set())
    return (
        f"{_plain(inspect.getdoc(kind))}\n\n{_table(('Key', 'Default', 'Meaning'), _keys(kind, f'{name}.', own=own))}"
    )


def _keys(kind: type, group: str, prefix: str = "", own: set[str] | None = None) -> Iterator[tuple[str, ...]]:
    """Yield key, default and meaning of the fields of a schema's class, and of the classes within it."""
    for one in fields(kind):
        if own is not None and one.name not in own:
            continue
        if is_dataclass(one.type):
            yield from _keys(one.type, group, f"{prefix}{one.name}.")
        else:
            key = prefix + one.name
            stated = [*(("", known) for known in _stated(one)), *_CHOICES.get(group + key, {}).items()]
            listed = [f"{_words(found)}{f' ({only})' if only else ''}" for only, found in stated]
            meaning = " ".join([_meaning(kind, one.name), *([f"Choices: {'; '.join(listed)}."] if listed else [])])
            yield f"`{key}`", f"`{_yaml(_default(one))}`", meaning


def _default(one: Field[Any]) -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()


def _yaml(value: Any) -> str:
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def _stated(one: Field[Any]) -> Iterator[Iterable[str]]:
    """Yield the choices that a field's type states."""
    for kind in (one.type, *get_args(one.type)):
        for part in getattr(kind, "__metadata__", ()):
            if isinstance(part, AfterValidator):
                known = inspect.getclosurevars(inspect.unwrap(part.func)).nonlocals
                yield from [known["known"]] if "known" in known else []


def _meaning(kind: type, name: str) -> str:
    """Return the text below a field in the schema."""
    for base in kind.__mro__:
        if base.__module__ == config.__name__ and (text := _texts()[base.__name__].get(name)):
            return text
    raise ValueError(f"{config.__file__}: {kind.__name__}.{name} has no text below it")


def _texts() -> dict[str, dict[str, str]]:
    """Return the texts below the fields of the schema's classes, by class and field."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.parse(inspect.getsource(config)).body:
        if isinstance(node, ast.ClassDef):
            texts = found[node.name] = {}
            for before, after in zip(node.body, node.body[1:], strict=False):
                if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr):
                    texts[ast.unparse(before.target)] = _plain(ast.literal_eval(after.value))
    return found


def _data_set(name: str, kind: type) -> str:
    """Return the arguments of a data set, which its docstring describes."""
    text, _, arguments = inspect.getdoc(kind).partition("\n\nArgs:\n")
    described = dict(re.findall(r"^ {4}(\w+): (.*?)(?=^ {4}\w|^\S|\Z)", arguments, flags=re.MULTILINE | re.DOTALL))
    stated = inspect.signature(kind).parameters.values()
    rows = (
        (
            f"`{one.name}`",
            f"`{'???' if one.default is one.empty else _yaml(one.default)}`",
            _plain(described[one.name]).replace("None: ", "`null`: "),
        )
        for one in stated
        if one.name != "task"  # data.task sets it
    )
    summary = "\n\n".join(map(_plain, text.split("\n\n")))
    return f"### `data.name={name}`\n\n{summary}\n\n{_table(('Argument', 'Default', 'Meaning'), rows)}"


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (" | ".join(cell.replace("|", r"\|") for cell in row) for row in (header, *rows))
    first, *others = (f"| {line} |" for line in lines)
    return "\n".join([first, "|---" * len(header) + "|", *others]) + "\n"


def _words(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _plain(text: str | None) -> str:
    """Return a docstring's text in a line, with names as Markdown marks them."""
    return " ".join((text or "").split()).replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
