"""A component's code does not change without its version, by which results that were kept are known."""

import json

from tests.versions import RECORDED, bare, components, stale

REMEDY = (
    "raise `version` of these classes, or, if all results stay as they are, "
    "run `python -m tests.versions --same-results`; else `python -m tests.versions`"
)


def test_code_changes_with_its_version_alone():
    recorded, found = json.loads(RECORDED.read_text(encoding="utf-8")), dict(components())
    assert not stale(recorded, found), REMEDY
    assert recorded == found, REMEDY


def test_a_change_without_a_version_is_seen():
    assert stale({"a": [1, "x"], "b": [1, "y"]}, {"a": [1, "z"], "b": [2, "z"], "c": [1, "z"]}) == ["a"]


def test_words_and_layout_are_no_change_and_numbers_are():
    text = 'def scale(x):\n    """Twice."""\n    return 2 * x\n'
    assert bare(text) == bare("import math\n\n\ndef scale(x):\n    # as one would\n    return (2 * x)\n")
    assert bare(text) != bare(text.replace("2 *", "3 *"))
