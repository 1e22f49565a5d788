"""The page's pure modules: each test of `e2e/unit/*.test.js` is one of pytest's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import Browser, Error

from e2e.conftest import async_fixture
from e2e.unit.bare import UNIT_DIR, bare_context

FILES = sorted(UNIT_DIR.glob("*.test.js"))
NAME = re.compile(r"""^test\(\s*(['"])(.+?)\1,""", re.MULTILINE)
RUN = """async (file) => {
  await import(`/unit/${file}`);
  const { results } = await import('/unit/runner.js');
  return results();
}"""


def names(file: Path) -> list[str]:
    """The names of a file's tests, as they are written in it."""
    return [match[2] for match in NAME.finditer(file.read_text("utf-8"))]


@async_fixture(scope="module")
async def outcomes(browser: Browser) -> dict[str, dict[str, str | None]]:
    """By file and name: None, or what went wrong. What the browser complains of is the file's failure."""
    found: dict[str, dict[str, str | None]] = {}
    errors: list[str] = []
    async with bare_context(browser) as context:
        # A document for each file, but one tab: what the process of a tab has compiled, it need not compile
        # again.
        page = await context.new_page()
        page.on("pageerror", lambda error: errors.append(f"{error}\n{error.stack}"))
        for file in FILES:
            await page.goto("/")
            # The last message of the previous document.
            errors.clear()
            try:
                found[file.name] = await page.evaluate(RUN, file.name)
            except Error as error:
                found[file.name] = {}
                errors.append(str(error))
            found[file.name][""] = "\n".join(errors) or None
    return found


@pytest.mark.parametrize(
    ("file", "name"),
    [pytest.param(file.name, name, id=f"{file.stem}: {name}") for file in FILES for name in names(file)],
)
def test_unit(outcomes: dict[str, dict[str, str | None]], file: str, name: str) -> None:
    assert name in outcomes[file], "it was not run"
    failure = outcomes[file][name]
    if failure is not None:
        pytest.fail(failure, pytrace=False)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_nothing_else_failed(outcomes: dict[str, dict[str, str | None]], file: Path) -> None:
    assert outcomes[file.name][""] is None, outcomes[file.name][""]
    assert sorted(names(file)) == sorted(name for name in outcomes[file.name] if name)
