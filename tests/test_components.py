"""How components are built from entries of tables and their arguments."""

from typing import Any, Literal

import pytest

from fastshap_lab.components import build, did_you_mean
from fastshap_lab.errors import UserError


def component(
    size: tuple[int, int], rate: float = 0.5, mode: Literal["a", "b"] = "a", given: int = 0
) -> dict[str, Any]:
    if rate > 1:
        raise ValueError("a rate above one\nand more")
    if rate < 0:
        raise UserError("params.rate: negative")
    return {"size": size, "rate": rate, "mode": mode, "given": given}


def test_build_makes_arguments_what_the_constructor_says_they_are():
    assert build({"it": component}, "group", "it", {"size": [1, 2], "rate": 1}, given=3) == {
        "size": (1, 2),
        "rate": 1.0,
        "mode": "a",
        "given": 3,
    }


@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [
        ("iy", {}, "group.name=iy: unknown, did you mean it? known: it"),
        ("it", {}, "group.params.size: missing, it needs it"),
        ("it", {"size": [1, 2, 3]}, "group.params.size=[1, 2, 3]: must have at most 2 items"),
        ("it", {"size": [1]}, "group.params.size=[1]: too short"),
        ("it", {"size": [1, 2.5]}, "group.params.size=[1, 2.5]: must be a valid integer"),
        ("it", {"size": [1, 2], "mode": "c"}, "group.params.mode=c: must be 'a' or 'b'"),
        ("it", {"size": [1, 2], "given": 4}, "group.params.given: unknown to it"),
        ("it", {"size": [1, 2], "rate": -1}, "group.params.rate: negative"),
        ("it", {"size": [1, 2], "rate": 2}, r"it cannot be built from them: ValueError: a rate above one$"),
    ],
)
def test_build_says_what_is_wrong(name, params, expected):
    with pytest.raises(UserError, match=expected.replace("[", r"\[").replace("?", r"\?")):
        build({"it": component}, "group", name, params, given=3)


def test_did_you_mean():
    assert did_you_mean("stag", ["stage", "seed"]) == "did you mean stage? known: stage, seed"
    assert did_you_mean("qqq", ["stage", "seed"]) == "known: stage, seed"
    assert did_you_mean("c99", [f"c{number}" for number in range(500)]).endswith("c58, c59, and 440 more")
