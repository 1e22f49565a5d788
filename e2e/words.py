"""The words of the page as the browser reads them, for tests that speak more than one language."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cache
from typing import Any

from e2e.javascript import WEB
from e2e.unit.bare import ORIGIN, bare_context

SOURCE_LOCALE, *OTHER_LOCALES = ("en", "ja")

Text = str | dict[str, str]


@dataclass(frozen=True)
class Language:
    """`files`: file → key → text, or texts by plural form; `forms`: the plural forms that the
    language has.
    """

    files: dict[str, dict[str, Text]]
    plural_forms: set[str]

    @property
    def texts(self) -> dict[str, Text]:
        return {key: text for file in self.files.values() for key, text in file.items()}


@cache
def load_languages() -> dict[str, Language]:
    """As the browser reads them."""

    async def load() -> dict[str, Any]:
        async with bare_context() as context:
            page = await context.new_page()
            await page.goto(ORIGIN)
            return {
                locale: await page.evaluate(
                    """async ([locale, files]) => ({
                      files: Object.fromEntries(await Promise.all(files.map(async (file) => {
                        const module = await import(`/web/i18n/${locale}/${file}`);
                        return [file, module.default];
                      }))),
                      forms: new Intl.PluralRules(locale).resolvedOptions().pluralCategories,
                    })""",
                    [locale, sorted(path.name for path in (WEB / "i18n" / locale).glob("*.js"))],
                )
                for locale in (SOURCE_LOCALE, *OTHER_LOCALES)
            }

    found = {}
    for locale, said in asyncio.run(load()).items():
        found[locale] = Language(files=said["files"], plural_forms=set(said["forms"]))
    return found


def translate(locale: str, key: str, **values: object) -> str:
    """As the page's `t`, with the plural form of many."""
    text = load_languages()[locale].texts[key]
    return (text if isinstance(text, str) else text["other"]).format(**values)
