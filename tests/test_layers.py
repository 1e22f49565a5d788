"""Structure of the package: imports point down, no import circles, small rooms, wiring in the composition
roots only.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "llb"

# From the top. A room may import the rooms of lower rows. `docs/design.md` shows the same table.
ROWS: tuple[frozenset[str], ...] = (
    frozenset({"__main__"}),
    frozenset({"cli", "server"}),
    frozenset({"app"}),
    frozenset({"balancer", "joined_node", "front"}),
    frozenset({"parts"}),
    frozenset({"api"}),
    frozenset({"gateway"}),
    frozenset({"cluster"}),
    frozenset({"node"}),
    frozenset({"engine"}),
    frozenset({"accounts"}),
    frozenset({"security"}),
    frozenset({"store", "hub", "gguf", "catalog", "hardware"}),
    frozenset({"policy", "config"}),
    frozenset({"base"}),
    frozenset({"errors", "wire"}),
    frozenset({"texts"}),
)
# Modules with more statements have a test at the same path below `tests`.
MAX_STATEMENTS_WITHOUT_TEST = 60
# Those that mean something only as a part of a whole host, or are types alone, and where their tests are. A
# folder ends with a slash.
TESTED_ELSEWHERE: Mapping[str, str] = MappingProxyType(
    {
        # Types of messages, classes of errors, protocols.
        "wire/": "api",
        "errors.py": "balancer/test_error_responses.py",
        "api/incoming_request.py": "front/test_request.py",
        # Composition roots.
        "app.py": "test_embedding.py",
        "balancer.py": "balancer",
        "joined_node.py": "joined_node",
        "parts/": "balancer",
        # Routes, which read a request and call a service.
        "api/inference/ollama.py": "balancer/test_ollama.py",
        "api/inference/ollama_models.py": "balancer/test_ollama.py",
        "api/internode/node_api.py": "joined_node",
        "api/internode/public_proxy.py": "joined_node/test_public_proxy.py",
        "api/routes/endpoints/management.py": "balancer/endpoints/test_endpoints.py",
        "api/routes/event_stream.py": "balancer/test_event_stream.py",
        "api/routes/models/changes.py": "balancer/test_models.py",
        "api/routes/models/downloads.py": "balancer/test_downloads.py",
        "api/routes/node_join.py": "joined_node/test_join.py",
        "api/routes/system.py": "balancer/test_system.py",
        # Descriptions of the routes.
        "api/reference/": "balancer/test_openapi.py",
        # Commands, which are run as users run them.
        "cli/chat/command.py": "cli/chat/test_session.py",
        "cli/checks/cluster.py": "cli/test_join.py",
        "cli/endpoints/secrets.py": "cli/endpoints/test_management.py",
        "cli/grammar/": "cli/grammar/test_parser.py",
        # What acts on the process that runs it, on real engines, or between two ends of a connection.
        "engine/builds/verification.py": "engine/builds/test_provisioning.py",
        "engine/sandbox/engine_user.py": "engine/sandbox/test_restrictions.py",
        "engine/sandbox/landlock.py": "engine/sandbox/test_restrictions.py",
        "node/download/parallel/range_connection.py": "node/download/parallel/test_parallel_fetch.py",
        "node/host_hardware.py": "balancer/test_engine_build.py",
    }
)
SANIC_ROOMS = frozenset({"server", "app", "api"})
MAX_MODULES_PER_FOLDER = 14

FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
ROW_OF = {room: number for number, row in enumerate(ROWS) for room in row}


def relative(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def room_of(path: Path) -> str:
    """The module or package directly under `llb` that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def statements_of(path: Path) -> tuple[ast.AST, ...]:
    """All statements of a file, also inside functions. What is inside an expression is no statement."""
    found: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    for node in found:
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            found += getattr(node, block, ())
    return tuple(found)


@cache
def imports_of(path: Path) -> list[tuple[int, str]]:
    """Line and full name of every module that a file imports, also inside functions."""
    found: list[tuple[int, str]] = []
    for node in statements_of(path):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            found.append((node.lineno, node.module))
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    assert room in ROW_OF, f"{room} is in no row: add it to ROWS and to docs/design.md"
    for line, name in imports_of(path):
        if not name.startswith("llb."):
            continue
        target = name.split(".")[1]
        if target not in ROW_OF or target == room:
            continue  # a name of llb/__init__.py, or the room itself
        assert ROW_OF[target] > ROW_OF[room], f"{path}:{line}: {room} imports {target}"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_only_the_edge_imports_sanic(path: Path) -> None:
    if room_of(path) not in SANIC_ROOMS:
        assert not [name for _, name in imports_of(path) if name.split(".")[0] in ("sanic", "sanic_routing")]


def test_modules_import_each_other_without_a_circle() -> None:
    modules = {module_of(path): path for path in FILES}
    imports = {
        module: {name for _, name in imports_of(path) if name in modules and name != module}
        for module, path in modules.items()
    }
    # `from llb.wire import X` names the package and `llb.wire.X`; a package imports what it re-exports.
    while imports:
        leaves = [module for module, targets in imports.items() if not targets & imports.keys()]
        assert leaves, f"import circle among {sorted(imports)}"
        for module in leaves:
            del imports[module]


def test_folders_are_small() -> None:
    folders = {path.parent for path in FILES}
    for folder in folders:
        modules = [path for path in folder.glob("*.py") if not path.stem.startswith("__")]
        if folder.name != "migrations":
            assert len(modules) <= MAX_MODULES_PER_FOLDER, f"{relative(folder)} has {len(modules)} modules"


def own_test_of(path: Path) -> Path:
    inside = path.relative_to(PACKAGE)
    return TESTS / inside.parent / f"test_{inside.name}"


def needs_test(path: Path) -> bool:
    return len(statements_of(path)) > MAX_STATEMENTS_WITHOUT_TEST and not own_test_of(path).exists()


def test_modules_have_tests_at_their_path() -> None:
    missing = [relative(path) for path in FILES if needs_test(path)]
    assert not [module for module in missing if not module.startswith(tuple(TESTED_ELSEWHERE))]


@pytest.mark.parametrize("place", TESTED_ELSEWHERE)
def test_what_is_tested_elsewhere_exists(place: str) -> None:
    assert (PACKAGE / place).exists()
    assert (TESTS / TESTED_ELSEWHERE[place]).exists()


def planted_callbacks(path: Path) -> Iterator[tuple[int, str]]:
    """Assignments of a callable to an attribute of another object: wiring that does not show."""
    for node in statements_of(path):
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            if not isinstance(target, ast.Attribute) or ast.unparse(target.value) in ("self", "cls"):
                continue
            is_callback_name = target.attr.startswith("on_") or target.attr.endswith("_of")
            if is_callback_name or isinstance(node.value, ast.Lambda):
                yield node.lineno, ast.unparse(target)


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_callbacks_are_constructor_arguments(path: Path) -> None:
    """Subscribers are passed to the constructor; see docs/design.md, "Wiring"."""
    assert not [*planted_callbacks(path)]


def broad_handlers(path: Path) -> Iterator[str]:
    """Handlers of any exception that neither raise it again nor say in a comment why they may not."""
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    for node in statements_of(path):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = "everything" if node.type is None else ast.unparse(node.type)
        if caught not in ("everything", "Exception", "BaseException"):
            continue
        gives_back_only = caught == "BaseException" and ast.unparse(node.body[-1]) == "raise"
        if not gives_back_only and not lines[node.lineno].lstrip().startswith("#"):
            yield f"{relative(path)}:{node.lineno} catches {caught}"


def test_handlers_of_any_exception_say_why() -> None:
    assert not [handler for path in FILES for handler in broad_handlers(path)]
