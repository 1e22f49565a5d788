"""Output of commands: what other hosts say reaches no terminal."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from llb.cli import output
from llb.cli.tables import cell_width, print_table

HOSTILE = "a\x1b[2J\x9b2J\x7f\u2028b\u202ec\u2066"


def test_json_contains_no_control_characters_and_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"name": HOSTILE, "text": "Grüße\n日本語"})
    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.splitlines())
    assert json.loads(printed) == {"name": HOSTILE, "text": "Grüße\n日本語"}


def test_lines_and_tables_contain_none(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_line(HOSTILE)
    print_table(["name"], [[HOSTILE]])
    output.print_note(HOSTILE)
    captured = capsys.readouterr()
    for line in (captured.out + captured.err).split("\n"):
        assert line.strip().isprintable()


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


def test_sizes_are_those_of_the_page() -> None:
    source = (Path(__file__).parents[2] / "e2e/unit/sizes.js").read_text("utf-8")
    table = json.loads(source.partition("export default")[2].strip().removesuffix(";"))
    assert [output.format_size(size) for size, _ in table] == [text for _, text in table]
    assert output.format_size(None) == "-"
