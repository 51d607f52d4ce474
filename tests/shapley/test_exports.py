import ast
from importlib import import_module
from pathlib import Path

import fastshap_lab.shapley as package


def test_package_exports_all_public_names_of_its_modules():
    public = set()
    for path in Path(package.__file__).parent.rglob("*.py"):
        if path.name == "__init__.py":
            continue
        module = ".".join(path.relative_to(Path(package.__file__).parent).with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
            for name in (getattr(one, "name", getattr(one, "id", "_")) for one in targets):
                if not name.startswith("_"):
                    public.add(name)
                    owner = import_module(f"fastshap_lab.shapley.{module}")
                    assert getattr(package, name) is getattr(owner, name), name
    here = {"ESTIMATORS", "relative_error", "shapley_values"}  # of estimators/__init__.py
    assert set(package.__all__) == public | here
