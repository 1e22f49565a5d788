"""Table of docs/compatibility.md, made from the committed results."""

from __future__ import annotations

from typing import Any

from tests.clients.compatibility.environments import NODE_FOLDERS, ROOT
from tests.clients.compatibility.programs import LIBRARIES
from tests.clients.compatibility.selection import PROGRAMS

DOCUMENT = ROOT / "docs" / "compatibility.md"
BEGIN = "<!-- written by python -m tests.clients: begin -->\n"
END = "<!-- end -->\n"
_LONGEST_ERROR = 160
_NOTHING = "–"


def render(results: dict[str, dict[str, Any]]) -> str:
    """Return the table of all programs that have results."""
    lines = ["| program | version | dialect | works | does not work |", "| --- | --- | --- | --- | --- |"]
    for program in PROGRAMS.values():
        if program.name in results:
            result = results[program.name]
            works = [_words(step) for step, error in result["steps"].items() if error is None]
            fails = [f"{_words(step)}: {_cell(error)}" for step, error in result["steps"].items() if error]
            packages = ", ".join(f"`{package}`" for package in program.packages)
            if program in LIBRARIES:
                packages += " (Node)" if program.environment in NODE_FOLDERS else " (Python)"
            cells = [
                packages,
                result["version"],
                program.dialects,
                ", ".join(works),
                "; ".join(fails) or _NOTHING,
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def update(document: str, results: dict[str, dict[str, Any]]) -> str:
    """Return the document with the table of `results` between its two marks."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"docs/compatibility.md lacks {BEGIN!r}"
    assert end, f"docs/compatibility.md lacks {END!r}"
    return before + begin + render(results) + end + after


def _words(step: str) -> str:
    return step.replace("_", " ")


def _cell(error: str) -> str:
    text = " ".join(error.split()).replace("|", "\\|").replace("<", "&lt;")
    return text if len(text) <= _LONGEST_ERROR else text[:_LONGEST_ERROR] + "…"
