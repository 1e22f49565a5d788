"""The imports of the package point down, never up and never sideways: DESIGN's "rooms"."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "llb"

# From the top; a row may import the rows below it. `docs/design.md` shows the same list.
ROWS: tuple[frozenset[str], ...] = (
    frozenset({"__main__"}),
    frozenset({"cli", "serve"}),
    frozenset({"app"}),
    frozenset({"appliance", "joined"}),
    frozenset({"api"}),
    frozenset({"gateway"}),
    frozenset({"cluster"}),
    frozenset({"node"}),
    frozenset({"engine", "certificates"}),
    frozenset({"auth", "store", "catalog", "hub", "gguf", "hardware"}),
    frozenset({"decide"}),
    frozenset(
        {
            "addresses",
            "config",
            "errors",
            "events",
            "home",
            "logs",
            "membership",
            "portable",
            "runfile",
            "share",
            "tasks",
            "tickets",
            "trust",
            "units",
            "wire",
        }
    ),
)
# The lowest row is what everything stands on; inside it some stand on others, without a circle.
GROUND = ROWS[-1]
SANIC_ROOMS = frozenset({"serve", "app", "api"})


def room_of(path: Path) -> str:
    """The room (module or package directly under `llb`) that a file belongs to."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports_of(path: Path) -> list[tuple[int, str]]:
    """Line and full name of every module that a file imports, also inside functions."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            found.append((node.lineno, node.module))
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
ROW_OF = {room: number for number, row in enumerate(ROWS) for room in row}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    assert room in ROW_OF, f"{room} stands in no row: add it to ROWS and to docs/design.md"
    for line, name in imports_of(path):
        if not name.startswith("llb."):
            continue
        target = name.split(".")[1]
        if target not in ROW_OF or target == room:
            continue  # a name of llb/__init__.py, or the room itself
        both_ground = room in GROUND and target in GROUND
        assert ROW_OF[target] > ROW_OF[room] or both_ground, f"{path}:{line}: {room} imports {target}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_edge_knows_sanic(path: Path) -> None:
    if room_of(path) not in SANIC_ROOMS:
        assert not [name for _, name in imports_of(path) if name.split(".")[0] in ("sanic", "sanic_routing")]


def test_the_ground_has_no_circle() -> None:
    below: dict[str, set[str]] = {
        room: {
            name.split(".")[1]
            for path in FILES
            if room_of(path) == room
            for _, name in imports_of(path)
            if name.startswith("llb.") and name.split(".")[1] in GROUND
        }
        - {room}
        for room in GROUND
    }
    while below:
        free = [room for room, targets in below.items() if not targets & below.keys()]
        assert free, f"imports in a circle: {sorted(below)}"
        for room in free:
            del below[room]
