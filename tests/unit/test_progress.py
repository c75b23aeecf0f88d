"""What is shown of long work: how far, how fast, how long left."""

import os
import pty
import re
import subprocess
import sys

import pytest

from pipeline import progress as module
from pipeline.progress import progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its one value is the time."""
    now = [100.0]
    monkeypatch.setattr(module, "monotonic", lambda: now[0])
    return now


def test_lines_have_the_rate_and_the_time_left(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress("images", 100) as advance:
        clock[0] += 4
        advance(10)
        clock[0] += 16
        advance(30)
        clock[0] += 5
        advance(60)
    assert capsys.readouterr().err.splitlines() == ["images: 40 of 100, 2.0/s, 30 s left", "images: 100 of 100, 4.0/s, 0 s left"]


def test_of_what_takes_long_the_seconds_of_each_are_said(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress("epochs", 3) as advance:
        for _ in range(3):
            clock[0] += 65
            advance(1)
    assert [line.split(", ")[1:] for line in capsys.readouterr().err.splitlines()] == [
        ["65 s each", "130 s left"],
        ["65 s each", "65 s left"],
        ["65 s each", "0 s left"],
    ]


def test_what_was_there_before_is_no_part_of_the_rate(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with progress("images", 100, finished=60) as advance:
        clock[0] += 20
        advance(20)
    assert capsys.readouterr().err.splitlines() == ["images: 60 of 100 were there already", "images: 80 of 100, 1.0/s, 20 s left"]


def test_a_terminal_gets_a_bar_with_rate_and_time_left() -> None:
    """A real one: rich draws only there."""
    code = """
import time
from pipeline.progress import progress
with progress("images", 1000, finished=500) as advance:
    for _ in range(3):
        time.sleep(0.2)
        advance(50)
    time.sleep(0.7)
"""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    done = subprocess.Popen([sys.executable, "-c", code], stderr=theirs, env=environment)
    os.close(theirs)
    said = b""
    try:
        while chunk := os.read(ours, 4096):
            said += chunk
    except OSError:  # the end of a terminal
        pass
    os.close(ours)
    assert done.wait() == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode())
    assert "650/1000" in shown and "65%" in shown
    rates = [float(found) for found in re.findall(r"([0-9.]+)/s", shown)]
    assert rates and all(20 < rate < 600 for rate in rates)
    assert re.search(r"0:00:0\d\s*$", shown.strip().splitlines()[-1])
