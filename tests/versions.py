"""Digests of the code of every component whose results are kept, beside its version: ``versions.json``.

``python -m tests.versions`` writes them anew. It refuses where code has changed and its version has not, since results
that were kept would be taken for the new code's: raise the class's ``version``, or say that the change leaves all
results as they are with ``--same-results``.
"""

import ast
import json
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastshap_lab.attribution import METHODS
from fastshap_lab.evaluation.checks import CHECKS
from fastshap_lab.evaluation.feeders import FEEDERS
from fastshap_lab.evaluation.metrics import comparable_metrics
from fastshap_lab.evaluation.sections import SECTIONS
from fastshap_lab.files import sha256
from fastshap_lab.models.maskings import MASKINGS
from fastshap_lab.shapley import ESTIMATORS

FOLLOWED = [["fastshap_lab", package] for package in ("attribution", "metrics", "models", "shapley", "evaluation")]
"""Packages whose modules compute results; what the others hold moves, stores or draws them."""

RECORDED = Path(__file__).with_name("versions.json")

TABLES: dict[str, dict[str, Any]] = {
    "METHODS": METHODS,
    "METRICS": comparable_metrics(),
    "FEEDERS": FEEDERS,
    "SECTIONS": SECTIONS,
    "CHECKS": CHECKS,
    "ESTIMATORS": ESTIMATORS,
    "MASKINGS": MASKINGS,
}


@cache
def code(module: str) -> str:
    """Return a module's code without comments, docstrings, layout and imports, which change no result by themselves."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return bare(Path(spec.origin).read_text(encoding="utf-8"))


def bare(text: str) -> str:
    """Return the same of a module's text."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        kept = [one for one in body if not isinstance(one, ast.Import | ast.ImportFrom)]
        node.body = [  # type: ignore[attr-defined]
            one for one in kept if not (isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant))
        ]
    return ast.dump(tree)


@cache
def imported(module: str) -> tuple[str, ...]:
    """Return the modules that a module imports from, of those that compute results."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    found: list[str] = []
    for node in ast.walk(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[:2] in FOLLOWED:
            names = [f"{node.module}.{name.name}" for name in node.names]
            modules = [name for name in names if is_module(name)]  # from a package, a module of it
            found += modules or [node.module]
    return tuple(found)


@cache
def is_module(name: str) -> bool:
    """Return whether there is a module of this name."""
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def closure(module: str) -> list[str]:
    """Return a module and all that it is built on, of those that compute results, in order of their names."""
    found, left = set[str](), [module]
    while left:
        if (one := left.pop()) not in found:
            found.add(one)
            left += imported(one)
    return sorted(found)


def components() -> Iterator[tuple[str, list[Any]]]:
    """Yield each component's name, and its version and the digest of its code."""
    for title, table in TABLES.items():
        for name, kind in sorted(table.items()):
            digest = sha256(*(code(module) for module in closure(kind.__module__)))
            yield f"{title}[{name}]", [getattr(kind, "version", 1), digest[:16]]


def stale(recorded: dict[str, list[Any]], found: dict[str, list[Any]]) -> list[str]:
    """Return the components whose code has changed and whose version has not."""
    return [
        name
        for name, (version, digest) in found.items()
        if name in recorded and recorded[name][0] == version and recorded[name][1] != digest
    ]


def main() -> None:
    """Write the file, unless something in it would be wrong."""
    found = dict(components())
    recorded = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    if (names := stale(recorded, found)) and "--same-results" not in sys.argv:
        sys.exit(f"changed, and not its version: {', '.join(names)}")
    RECORDED.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
