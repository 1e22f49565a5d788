"""The documents: every path that they name exists, and every relative link resolves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "bench").rglob("*.md")),
    ROOT / "CONTRIBUTING.md",
    ROOT / "README.md",
]
NAMES = [document.relative_to(ROOT).as_posix() for document in DOCUMENTS]

# A path of the repository in backticks. It may be a pattern, or contain a placeholder (`mNNNN_name.py`).
SOURCE_PATH = re.compile(r"(?:llb|web|tests|bench|e2e)/[\w./*-]*")
# A test that a table of docs/security.md or docs/reliability.md names relative to `tests/`, with or without
# `.py`.
TEST_PATH = re.compile(r"(?:[\w-]+/)*test_\w+(?:\.py)?")
PLACEHOLDER = "NNNN"
TABLES_OF_TESTS = {"docs/security.md", "docs/reliability.md"}


def without_blocks(text: str) -> str:
    """Return `text` without its fenced code blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def code_spans(document: Path) -> list[str]:
    """Return the texts between single backticks."""
    return re.findall(r"`([^`\n]+)`", without_blocks(document.read_text(encoding="utf-8")))


def anchors(document: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub builds them."""
    headings = re.findall(
        r"^#+ (.+)$", without_blocks(document.read_text(encoding="utf-8")), flags=re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_every_path_in_a_document_exists(name: str) -> None:
    paths = [span for span in code_spans(ROOT / name) if SOURCE_PATH.fullmatch(span)]
    assert [path for path in paths if PLACEHOLDER not in path and not any(ROOT.glob(path))] == []


@pytest.mark.parametrize("name", sorted(TABLES_OF_TESTS))
def test_every_test_in_a_document_exists(name: str) -> None:
    tests = [span.removesuffix(".py") for span in code_spans(ROOT / name) if TEST_PATH.fullmatch(span)]
    assert tests
    missing = [
        test
        for test in tests
        if not any((ROOT / folder / f"{test}.py").exists() for folder in ("tests", "."))
    ]
    assert missing == []


@pytest.mark.parametrize("name", NAMES)
def test_every_relative_link_resolves(name: str) -> None:
    document = ROOT / name
    links = re.findall(r"\]\(([^)\s]+)\)", without_blocks(document.read_text(encoding="utf-8")))
    broken = []
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []
