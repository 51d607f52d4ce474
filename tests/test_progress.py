import re

import pytest

from fastshap_lab import progress
from fastshap_lab.progress import Progress, track


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """Return the time, which a test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_off_a_terminal_a_line_comes_every_thirty_seconds_and_none_for_quicker_work(clock, capsys):
    for _ in track(range(29), "quick"):
        clock[0] += 1
    assert capsys.readouterr() == ("", "")
    for _ in track(range(130), "slow"):
        clock[0] += 0.5
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == ["slow        60 of 130 after 30 s", "slow        120 of 130 after 60 s"]


def test_a_resumed_work_counts_from_where_it_was_and_says_how_it_goes(clock, capsys):
    with Progress("explainer", 2000, done=1000) as shown:
        shown.say("val/loss 0.5 [of 1]")
        clock[0] += 31
        shown.advance()
    assert capsys.readouterr().err == "explainer   1,001 of 2,000 after 31 s  val/loss 0.5 [of 1]\n"


def test_on_a_terminal_a_bar_leaves_no_trace_after_an_error_either(clock, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)

    def fail() -> None:
        for _ in track(range(3), "work"):
            clock[0] += 100
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        fail()
    said = capsys.readouterr().err
    assert "\x1b[?25l" in said  # hides the cursor
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")  # and shows it again
    assert not re.search(r"of 3 after", said)
