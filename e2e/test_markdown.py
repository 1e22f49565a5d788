"""What models write is hostile: it is shown as Markdown, and can do nothing."""

from __future__ import annotations

import pytest
from playwright.async_api import Page, Request, expect

from e2e.answers import (
    conversation_list,
    conversation_log,
    fake_completions,
    send_message,
    talker,
    text_completion,
)
from e2e.conftest import VisitorFactory, async_fixture
from e2e.profiles import DEADLINE_MS
from tests.harness import RunningBalancer

__all__ = ["talker"]

HOSTILE = """Before <script>document.title = 'owned'</script> <img src=x onerror="document.title='owned'">

<img src="http://elsewhere.invalid/pixel.png"><iframe src="http://elsewhere.invalid/"></iframe>

![picture](http://elsewhere.invalid/picture.png) ![own](/api/models) ![s](data:image/svg+xml;base64,PHN2Zy8+)

[script](javascript:document.title='owned') [tab](java\tscript:alert(1)) [data](data:text/html,<script>alert(1)</script>)
[own](/settings) [other](//elsewhere.invalid/) [good](https://example.invalid/page "title") <a@example.invalid>

<style>* { display: none !important }</style><p style="position:fixed;inset:0">cover</p>

<svg onload="document.title='owned'"><a xlink:href="javascript:alert(1)"><text>x</text></a></svg>

<form action="http://elsewhere.invalid/"><input name="attributes"><button id="root">Log in</button></form>

<a id="body" name="createElement" href="https://example.invalid">clobber</a> <math><mtext><style><img src=x onerror=alert(1)>

<table background="http://elsewhere.invalid/t.png"><tr><td>cell</td></tr></table>

# Heading {#root}

```"><img/src=x/onerror=alert(1)>
<b onclick="alert(1)">code</b>
```

The end"""

FORBIDDEN = (
    "script",
    "style",
    "iframe",
    "form",
    "input",
    "math",
    "img",
    "[id]",
    "[name]",
    "[style]",
    "[onclick]",
)


@async_fixture()
async def page(talker: RunningBalancer, visitors: VisitorFactory) -> Page:
    return await (await visitors(talker)).open("/playground")


async def test_hostile_markdown_is_inert(page: Page, talker: RunningBalancer) -> None:
    left: list[str] = []

    def note(request: Request) -> None:
        if not request.url.startswith((talker.url, "data:image/", "blob:")):
            left.append(request.url)

    page.on("request", note)
    await fake_completions(page, text_completion(HOSTILE))
    await send_message(page, "Attack")
    await expect(conversation_log(page)).to_contain_text("The end")
    said = conversation_log(page).locator(".answer .message-text")
    for selector in FORBIDDEN:
        await expect(said.locator(selector)).to_have_count(0)
    # Markup is text to be read.
    await expect(said).to_contain_text("<script>document.title = 'owned'</script>")
    await expect(said).to_contain_text("picture")
    links = [
        [await link.get_attribute(name) for name in ("href", "target", "rel")]
        for link in await said.locator("a").all()
    ]
    assert links == [
        ["https://example.invalid/page", "_blank", "noreferrer noopener"],
        ["mailto:a@example.invalid", "_blank", "noreferrer noopener"],
    ]
    await expect(page.get_by_role("heading", level=1)).to_have_text("Playground")
    await expect(said.get_by_role("heading", level=3)).to_have_text("Heading {#root}")
    await expect(page).to_have_title("Playground · llb")
    # The page is still its own.
    await page.get_by_role("navigation").get_by_role("link", name="Nodes").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Nodes")
    assert left == []


async def test_what_is_asked_is_shown_as_it_was_typed(page: Page) -> None:
    await fake_completions(page, text_completion("Fine."))
    await send_message(page, "<b>**bold**</b>\n  indented")
    question = conversation_log(page).locator(".question")
    await expect(question).to_contain_text("<b>**bold**</b>")
    await expect(question.locator("b, strong")).to_have_count(0)


RICH = """Some **bold**, *slanted*, `code` and H<sub>2</sub>O.
A second line.

1. one
2. two

   inside two

3. three

- [x] done
- [ ] open

| left | right |
|:-----|------:|
| 1    | 2     |

> quoted

```python
def add(a, b):
    return a + b  # 1 < 2 & 3

print("x")
```

~~~unknown
<as it is>
~~~
"""


async def test_markdown_looks_like_it(page: Page) -> None:
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await fake_completions(page, text_completion(RICH))
    await send_message(page, "Show me")
    said = conversation_log(page).locator(".answer .message-text")
    await expect(said.locator("strong")).to_have_text("bold")
    await expect(said.locator("sub")).to_have_text("2")
    await expect(said.locator("ol > li")).to_have_count(3)
    await expect(said).to_contain_text("☑ done")
    await expect(said.get_by_role("columnheader", name="right")).to_have_attribute("align", "right")
    await expect(said.get_by_role("blockquote")).to_contain_text("quoted")
    await expect(said.locator("pre .hljs-keyword").first).to_have_text("def")
    await expect(said.locator(".code-head").first).to_contain_text("python")
    await expect(said.locator("pre").last).to_have_text("<as it is>\n")
    await said.get_by_role("button", name="Copy code").first.click()
    copied = str(await page.evaluate("navigator.clipboard.readText()"))
    assert copied.rstrip("\n") == 'def add(a, b):\n    return a + b  # 1 < 2 & 3\n\nprint("x")'


# For hangs only: the parser takes seconds of processor time for nested emphasis.
PARSER_DEADLINE_MS = 2 * DEADLINE_MS


@pytest.mark.timeout(300)
async def test_what_is_too_much_for_a_parser_does_not_stop_the_page(page: Page) -> None:
    strange = {
        "quotes": ">" * 15_000,
        "brackets": "[" * 19_000,
        "lists": "- " * 9_000,
        "tags": "<" * 30_000,
        "emphasis": "*a_" * 6_000,
    }
    for name, text in strange.items():
        await fake_completions(
            page, text_completion(f"Look:\n\n{text}\n\nThat was it."), text_completion("Alive")
        )
        await send_message(page, f"Strange {name}")
        await expect(conversation_log(page)).to_contain_text("That was it.", timeout=PARSER_DEADLINE_MS)
        await send_message(page, "Still there?")
        await expect(conversation_log(page)).to_contain_text("Alive", timeout=PARSER_DEADLINE_MS)
        await conversation_list(page).get_by_role("button", name="New conversation").click()
        await expect(conversation_log(page)).not_to_contain_text("Alive")
