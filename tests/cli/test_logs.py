"""Lines of `llb logs`."""

from __future__ import annotations

import argparse
import sys

import pytest

from llb.cli import logs
from llb.wire import LogLevel, LogLine, LogPage

PAGE = LogPage(
    lines=(
        LogLine(
            seq=1,
            time="2027-01-31T12:00:00.000Z",
            level=LogLevel.ERROR,
            source="evil\x1b]0;title\x07\n12:00:00 INFO server",
            text="text\x1b[2J\rall is well",
            request_id="id\x9b\u202e",
        ),
    ),
    next=2,
    sources=(),
)


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_node_controls_no_terminal_and_forges_no_line(
    is_terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    monkeypatch.setenv("TERM", "dumb")
    logs._print_lines(PAGE, argparse.Namespace(json=False))
    [line] = capsys.readouterr().out.splitlines()
    assert line.isprintable()
    assert r"evil\x1b]0;title\x07\n12:00:00 INFO server: text\x1b[2J\rall is well [id\x9b\u202e]" in line
