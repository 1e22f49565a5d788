"""Output of commands: what other hosts say reaches no terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llb.cli import output
from llb.cli.tables import print_table

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


def test_sizes_are_those_of_the_page() -> None:
    source = (Path(__file__).parents[2] / "e2e/unit/sizes.js").read_text("utf-8")
    table = json.loads(source.partition("export default")[2].strip().removesuffix(";"))
    assert [output.format_size(size) for size, _ in table] == [text for _, text in table]
    assert output.format_size(None) == "-"
