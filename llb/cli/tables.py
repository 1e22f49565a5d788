"""Tables of the commands. At a terminal they fit its width: no word is broken, no line wraps.

Where a table is too wide, its `flexible` column is cut with an ellipsis, then `droppable` columns are left
out, and a note says which. Output that is not a terminal has all columns, uncut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llb.cli import output

GAP = 2
# Below this width a flexible column says nothing, and a column is dropped instead.
MIN_FLEXIBLE_WIDTH = 12
ELLIPSIS = "…"
# Shown for a missing figure.
EMPTY_CELL = "-"


def print_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    right_aligned: Iterable[int] = (),
    flexible: int | None = None,
    droppable: Sequence[int] = (),
) -> None:
    """Print a table.

    `right_aligned` are the indexes of numeric columns, `droppable` those to leave out, in this order, and
    `flexible` is the column to cut. The first column is an argument of other commands: it is never cut.
    """
    cells = [[output.strip_control_chars(cell) for cell in row] for row in rows]
    widths = [max(cell_width(text) for text in column) for column in zip(headings, *cells, strict=True)]
    console = output.create_console()
    shown = list(range(len(headings)))
    if console.is_terminal:
        shown = _fit(widths, shown, console.width, flexible, droppable)
    numeric = frozenset(right_aligned)

    def line(row: Sequence[str]) -> list[str]:
        parts = []
        for index in shown:
            text = _cut(row[index], widths[index])
            padding = " " * (widths[index] - cell_width(text))
            parts.append(padding + text if index in numeric else text + padding)
        return parts

    if not console.is_terminal:
        for row in (headings, *cells):
            output.print_line((" " * GAP).join(line(row)).rstrip())
        return
    from rich.text import Text

    console.print(Text((" " * GAP).join(line(headings)).rstrip(), style="bold"), soft_wrap=True)
    for row in cells:
        text = Text()
        for position, (index, part) in enumerate(zip(shown, line(row), strict=True)):
            text.append(" " * GAP if position else "")
            text.append(part, style=output.style_of(row[index]))
        text.rstrip()
        console.print(text, soft_wrap=True)
    hidden = [headings[index] for index in range(len(headings)) if index not in shown]
    if hidden:
        output.print_note(f"Not shown in {console.width} columns: {', '.join(hidden)}.")


def _fit(
    widths: list[int], shown: list[int], width: int, flexible: int | None, droppable: Sequence[int]
) -> list[int]:
    """Indexes of the columns that fit into `width`; narrows the flexible one in `widths`."""
    shown, waiting = list(shown), list(droppable)

    def excess() -> int:
        return sum(widths[index] for index in shown) + GAP * (len(shown) - 1) - width

    while excess() > 0:
        if flexible in shown and flexible is not None:
            least = min(MIN_FLEXIBLE_WIDTH, widths[flexible])
            if widths[flexible] - excess() >= least:
                widths[flexible] -= excess()
                break
        if not waiting:
            break
        column = waiting.pop(0)
        if column in shown and len(shown) > 1:
            shown.remove(column)
    return shown


def _cut(text: str, width: int) -> str:
    if cell_width(text) <= width:
        return text
    while text and cell_width(text) > width - 1:
        text = text[:-1]
    return text.rstrip() + ELLIPSIS


def cell_width(text: str) -> int:
    """Columns of `text` in a terminal: two for the wide characters of Chinese and Japanese."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
