"""Table of docs/compatibility.md, made from the committed results."""

from __future__ import annotations

from typing import Any

from tests.clients.compatibility.environments import ROOT
from tests.clients.compatibility.programs import Program

DOCUMENT = ROOT / "docs" / "compatibility.md"
BEGIN = "<!-- written by python -m tests.clients: begin -->\n"
END = "<!-- end -->\n"
_LONGEST_ERROR = 160


def render(results: dict[str, dict[str, Any]], programs: list[Program]) -> str:
    """Return the table of all programs that have results."""
    lines = ["| program | version | dialect | works | does not work |", "| --- | --- | --- | --- | --- |"]
    for program in programs:
        if program.name in results:
            result = results[program.name]
            works = [_words(step) for step, error in result["steps"].items() if error is None]
            fails = [f"{_words(step)}: {_cell(error)}" for step, error in result["steps"].items() if error]
            packages = ", ".join(f"`{package}`" for package in program.packages)
            cells = [packages, result["version"], program.dialects, ", ".join(works), "; ".join(fails)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def replace_table(document: str, table: str) -> str:
    """Return the document with `table` between its two marks."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"docs/compatibility.md lacks {BEGIN!r}"
    assert end, f"docs/compatibility.md lacks {END!r}"
    return before + begin + table + end + after


def _words(step: str) -> str:
    return step.replace("_", " ")


def _cell(error: str) -> str:
    text = " ".join(error.split()).replace("|", "\\|").replace("<", "&lt;")
    return text if len(text) <= _LONGEST_ERROR else text[:_LONGEST_ERROR] + "…"
