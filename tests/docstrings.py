"""Prints what docstrings lack, and fails if that is anything: ``python -m tests.docstrings``, a part of ``make lint``.

A public function or method with two or more arguments has an ``Args:`` section that names each of them. A method that
overrides another one is described there, and the arguments of a constructor in the docstring of its class. What a
package of ``EXAMPLES`` exports has an example, which ``tests/test_examples.py`` runs.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "fastshap_lab"
EXAMPLES = ("", "attribution", "metrics", "shapley")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def missing() -> Iterator[str]:
    """Yield a line for each public function whose arguments are not all described."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
    classes = {node.name: node for tree in trees.values() for node in tree.body if isinstance(node, ast.ClassDef)}
    for path, tree in trees.items():
        for owner, function in public_functions(tree):
            names = arguments(function)
            if len(names) < 2 or (owner is not None and overrides(owner, function, classes)):
                continue
            described = family(owner, classes) if owner is not None and function.name == "__init__" else [function]
            found = set().union(*(described_arguments(ast.get_docstring(node) or "") for node in described))
            lacking = [name for name in names if name not in found]
            if lacking:
                place = f"{path.relative_to(PACKAGE.parent)}:{function.lineno}"
                name = function.name if owner is None else f"{owner.name}.{function.name}"
                yield f"{place}: {name}: Args lacks {', '.join(lacking)}"


def without_example() -> Iterator[str]:
    """Yield a line for each function and class that a package of ``EXAMPLES`` exports without an example."""
    for package in EXAMPLES:
        folder = PACKAGE / package
        paths = folder.rglob("*.py") if package else folder.glob("*.py")
        nodes = {
            node.name: (path, node)
            for path in paths
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, Function | ast.ClassDef)
        }
        for name in exported(folder / "__init__.py"):
            if name in nodes and ">>>" not in (ast.get_docstring(nodes[name][1]) or ""):
                path, node = nodes[name]
                yield f"{path.relative_to(PACKAGE.parent)}:{node.lineno}: {name}: no example"


def exported(path: Path) -> list[str]:
    """Return the names in a module's ``__all__``."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    raise ValueError(f"{path}: no __all__")


def public_functions(tree: ast.Module) -> Iterator[tuple[ast.ClassDef | None, Function]]:
    """Yield the public functions of a module, and the public methods and constructors of its public classes."""
    for node in tree.body:
        if isinstance(node, Function) and not node.name.startswith("_"):
            yield None, node
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, Function) and (method.name == "__init__" or not method.name.startswith("_")):
                    yield node, method


def arguments(function: Function) -> list[str]:
    """Return the names of a function's arguments, without ``self`` and ``cls``."""
    stated = function.args
    names = [*stated.posonlyargs, *stated.args, stated.vararg, *stated.kwonlyargs, stated.kwarg]
    return [one.arg for one in names if one is not None and one.arg not in ("self", "cls") and one.arg[0] != "_"]


def family(owner: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> list[ast.ClassDef]:
    """Return a class and those that it derives from, as far as they are of the package."""
    names = (ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in owner.bases)
    return [owner, *(one for name in names if name in classes for one in family(classes[name], classes))]


def overrides(owner: ast.ClassDef, function: Function, classes: dict[str, ast.ClassDef]) -> bool:
    """Return whether a class that ``owner`` derives from has the method, too, or is of another package."""
    for base in owner.bases:
        name = ast.unparse(base).partition("[")[0].rpartition(".")[2]
        if name not in classes:
            if function.name in FOREIGN or function.name.startswith("on_"):
                return True
        elif function.name != "__init__" and (
            any(isinstance(node, Function) and node.name == function.name for node in classes[name].body)
            or overrides(classes[name], function, classes)
        ):
            return True
    return False


FOREIGN = {
    "forward",
    "update",
    "list",
    "save_checkpoint",
    "lr_scheduler_step",
    "training_step",
    "validation_step",
    "load_state_dict",
    "state_dict",
}
"""Methods that PyTorch, torchmetrics, Lightning or Hydra describe; so are those that begin with ``on_``."""


def described_arguments(docstring: str) -> set[str]:
    """Return the arguments that a docstring of Google's style describes."""
    _, found, section = docstring.partition("Args:\n")
    section = re.split(r"\n(?=\S)", section)[0] if found else ""
    lines = re.findall(r"^ +\*{0,2}([\w, *]+?)(?: \(.*?\))?: ", section, flags=re.MULTILINE)
    return {name.strip(" *") for line in lines for name in line.split(",")}


if __name__ == "__main__":
    arguments_lacking, examples_lacking = list(missing()), list(without_example())
    for line in (*arguments_lacking, *examples_lacking):
        print(line)  # noqa: T201
    print(f"{len(arguments_lacking)} docstrings lack arguments, {len(examples_lacking)} an example")  # noqa: T201
    sys.exit(bool(arguments_lacking or examples_lacking))
