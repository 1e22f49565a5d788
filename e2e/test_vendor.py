"""The vendored modules in a browser, under the page's own Content-Security-Policy."""

from __future__ import annotations

from collections.abc import AsyncIterator

from playwright.async_api import Browser, Page

from e2e.conftest import async_fixture
from llb.api.routes.page import Page as Files
from llb.base.resources import resource_path
from tests.harness import RunningBalancer

LANGUAGES = sorted(path.stem for path in (resource_path("web") / "vendor/highlight/languages").glob("*.js"))


VENDOR = f"/assets/{Files.load(resource_path('web')).version}/vendor"


@async_fixture()
async def page(llb: RunningBalancer, browser: Browser) -> AsyncIterator[Page]:
    """A document of llb that has no scripts of its own; it is under the same policy as all others."""
    context = await browser.new_context()
    page = await context.new_page()
    await page.goto(f"{llb.url}/health")
    yield page
    await context.close()


async def test_markup_becomes_safe_and_trusted(page: Page) -> None:
    shown = await page.evaluate(
        """async (vendor) => {
            const {marked} = await import(`${vendor}/marked/marked.js`)
            const {default: DOMPurify} = await import(`${vendor}/dompurify/dompurify.js`)
            const html = marked.parse('**bold** [link](javascript:alert(1)) <i onclick=alert(1)>slanted</i>')
            const trusted = DOMPurify.sanitize(html, {RETURN_TRUSTED_TYPE: true})
            document.body.innerHTML = trusted
            return [Object.prototype.toString.call(trusted), document.body.innerHTML.trim()]
        }""",
        VENDOR,
    )
    assert shown == ["[object TrustedHTML]", "<p><strong>bold</strong> <a>link</a> <i>slanted</i></p>"]


async def test_untrusted_markup_and_other_policies_are_refused(page: Page) -> None:
    refused = await page.evaluate("""() => [
            () => { document.body.innerHTML = '<b>raw</b>' },
            () => trustedTypes.createPolicy('other', {createHTML: (text) => text}),
        ].map((act) => { try { act(); return null } catch (error) { return error.name } })""")
    assert refused == ["TypeError", "TypeError"]
    assert await page.evaluate("trustedTypes.createPolicy('llb', {createHTML: (text) => text}).name") == "llb"


async def test_every_language_is_highlighted(page: Page) -> None:
    languages = await page.evaluate(
        """async ([vendor, names]) => {
            const {default: hljs} = await import(`${vendor}/highlight/core.js`)
            for (const name of names) {
                hljs.registerLanguage(name, (await import(`${vendor}/highlight/languages/${name}.js`)).default)
                hljs.highlight('def f(): return "x" // 1', {language: name})
            }
            return hljs.listLanguages().sort()
        }""",
        [VENDOR, LANGUAGES],
    )
    assert languages == LANGUAGES
    assert len(LANGUAGES) > 20
