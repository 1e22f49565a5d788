"""Tables: columns that fit a terminal."""

from __future__ import annotations

import sys

import pytest
from rich.console import Console

from llb.cli import output
from llb.cli.tables import cell_width, print_table

ROWS = [
    ("smollm2-135m-instruct", "SmolLM2 135M Instruct", "98.4 MB", "Ready (loaded)", "fits"),
    ("qwen3-4b", "Qwen3 4B のモデル", "2.5 GB", "Available", "too large"),
]


def table_at(width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Lines of a table at a terminal of this width, and the note below it."""
    console = Console(file=sys.stdout, width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(output, "create_console", lambda: console)
    print_table(
        ("ID", "NAME", "SIZE", "STATUS", "FIT"), ROWS, right_aligned=(2,), flexible=1, droppable=(1, 4)
    )
    captured = capsys.readouterr()
    return [*captured.out.splitlines(), captured.err.strip()]


@pytest.mark.parametrize("width", range(50, 120, 5))
def test_a_table_fits_the_terminal_and_breaks_no_word(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    *lines, note = table_at(width, monkeypatch, capsys)
    assert len(lines) == 3
    assert all(cell_width(line) <= width for line in lines)
    assert [line.split()[0] for line in lines] == ["ID", "smollm2-135m-instruct", "qwen3-4b"]
    assert "98.4 MB" in lines[1]
    assert "Ready (loaded)" in lines[1]
    hidden = [heading for heading in ("NAME", "FIT") if heading not in lines[0]]
    assert note == (f"Not shown in {width} columns: {', '.join(hidden)}." if hidden else "")


def test_a_wide_terminal_cuts_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not any("…" in line for line in table_at(120, monkeypatch, capsys))
    assert "SmolLM2 135M…" in table_at(72, monkeypatch, capsys)[1]
