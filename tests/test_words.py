"""Words: no document and no message of the commands uses one that docs/glossary.md retires."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.retired_words import find_retired_words, retired_words, without_retired_words
from tests.test_documents import DOCUMENTS, NAMES, ROOT

# Modules whose texts people read: commands, errors, settings.
MESSAGES = [*sorted((ROOT / "llb" / "cli").rglob("*.py")), *sorted((ROOT / "llb" / "config").rglob("*.py"))]
MESSAGES.append(ROOT / "llb" / "errors.py")


def texts_of(path: Path) -> list[str]:
    """Return the texts of a module, with the fixed parts of f-strings; docstrings are for its readers."""
    tree = ast.parse(path.read_text("utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    ]


def test_the_table_is_read() -> None:
    assert {"computer", "wishes", "鍵"} <= set(retired_words())
    assert find_retired_words("Two Computers, a computer\nand so\nmany") == ["computer", "so many"]
    assert find_retired_words("鍵を作る") == ["鍵"]


@pytest.mark.parametrize("path", DOCUMENTS, ids=NAMES)
def test_no_document_uses_a_retired_word(path: Path) -> None:
    assert find_retired_words(without_retired_words(path.read_text("utf-8"))) == []


def test_no_message_uses_a_retired_word() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {word}: {text}"
        for path in MESSAGES
        for text in texts_of(path)
        for word in find_retired_words(text)
    }
    assert found == set()
