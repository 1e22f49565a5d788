"""axe-core on every page and state, in both themes and languages: WCAG 2.2 AA, good practice, and AAA
contrast of text.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

from e2e.answers import STOP_CHUNK, delta_chunk, fake_completions, sse_completion
from e2e.conftest import Visitor, VisitorFactory, async_fixture, go_to
from e2e.test_nodes import cluster
from e2e.words import translate
from tests.conftest import TINY_BYTES, BalancerFactory
from tests.harness import RunningBalancer, write_catalog
from tests.hub import HubStandIn, tiny_gguf
from tests.providers import ProviderStandIn

AXE = files("axe_playwright_python") / "axe.min.js"
OPTIONS = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    # Off by default: the contrast is AAA's, the size of targets is new in 2.2.
    "rules": {
        "color-contrast-enhanced": {"enabled": True},
        "target-size": {"enabled": True},
        # Whatever it objects to, the enhanced one objects to; each takes as long as all other rules.
        "color-contrast": {"enabled": False},
    },
    "resultTypes": ["violations", "incomplete"],
}
RUN = """async ([part, options]) => {
  const { violations, incomplete } = await axe.run(part ? { include: [[part]] } : document, options);
  const told = ({ id, nodes }) => nodes.map(({ target, failureSummary }) => [id, target.join(' '), failureSummary]);
  // A contrast has to be one that can be judged; what is only scrolled half out of sight can be, elsewhere.
  const grounds = new Set(['bgGradient', 'bgImage', 'imgNode', 'pseudoContent', 'fgAlpha', 'colorParse', 'complexTextShadows']);
  const hidden = ({ any }) => any.some(({ data }) => grounds.has(data?.messageKey));
  const unjudged = incomplete.map(({ id, nodes }) => ({ id, nodes: nodes.filter(hidden) }));
  return [...violations, ...unjudged].flatMap(told);
}"""

ANSWER = """### An answer

With **all** that _Markdown_ has: `code`, [a link](https://example.invalid/), ~~an error~~ and

> a quotation.

1. one
2. two
   - deeper

```python
# A comment
class Word(str):
    def shout(self, times: int = 2) -> str:
        return f"{self.upper()}{'!' * times}"  # 100 %
```

| a | b |
| - | - |
| 1 | 2 |

---
"""


@async_fixture()
async def balancer(
    make_llb: BalancerFactory, hub: HubStandIn, chat_gguf: Path, tmp_path: Path
) -> RunningBalancer:
    """A balancer with a model in each status, a loaded model, a key, a user and a history."""
    for name in ("coming", "waiting", "broken", "free"):
        hub.add_repo(f"test/{name}", {f"{name}.gguf": tiny_gguf(TINY_BYTES, seed=name)})
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf}, downloads=1_234_567, likes=890)
    hub.faults.stall(after=TINY_BYTES * 4 // 10, repo="test/coming")
    hub.faults.corrupt(repo="test/broken")
    hub.faults.black_hole(repo="test/waiting")
    described = {
        "description": "What it is good at, in a sentence.",
        "tags": ["chat"],
        "quantization": "Q4_K_M",
    }
    sizes = {
        name: {"id": name, "size_bytes": TINY_BYTES, **described}
        for name in ("coming", "waiting", "broken", "free")
    }
    giant = {"id": "giant", "size_bytes": TINY_BYTES, "required_memory_bytes": 16_000_000_000_000}
    catalog = write_catalog(
        tmp_path / "balancer.json",
        {
            "id": "chat",
            "name": "Chatterbox",
            "size_bytes": chat_gguf.stat().st_size,
            "context_length": 512,
            **described,
        },
        *sizes.values(),
        giant,
    )
    llb = await make_llb(catalog=catalog).start()
    await llb.wait_until_online()
    await llb.pull_model("chat")
    for name in ("coming", "waiting", "broken"):
        assert (await llb.register_model(name)).status_code == 202
    await llb.wait_for_status("coming", "Downloading")
    await llb.wait_for_status("broken", "Error")
    await llb.wait_for_status("waiting", "Registered")
    question = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    assert (await llb.http.post("/v1/chat/completions", json=question)).status_code == 200
    assert (
        await llb.http.post("/v1/chat/completions", json={**question, "model": "none"})
    ).status_code == 404
    await llb.create_key()
    person = {"username": "ann", "password": "a password of her own"}
    assert (await llb.http.post("/api/users", json=person)).status_code == 201
    return llb


@async_fixture()
async def empty_balancer(hub: HubStandIn, catalog: Path, tmp_path: Path) -> AsyncIterator[RunningBalancer]:
    """A new balancer: no models, no requests, the default password."""
    async with RunningBalancer(
        tmp_path / "empty", hub_endpoint=hub.url, catalog=catalog, name="attic"
    ) as llb:
        await llb.wait_until_online()
        yield llb


class Inspector:
    """One visitor's look at every state: `found` is what axe has against them."""

    def __init__(self, visitor: Visitor, locale: str, place: str) -> None:
        self.visitor = visitor
        self.locale = locale
        self.place = place
        self.found: list[str] = []

    def say(self, key: str, **values: object) -> str:
        return translate(self.locale, key, **values)

    async def open(self, address: str, *, reload: bool = False) -> Page:
        """The page at `address`, when it shows what it is about; through a link, or with `reload` as a new load.

        A new load costs more than a look, so one dialog is closed for the next page.
        """
        pages = self.visitor.context.pages
        if reload or not pages:
            for page in pages:
                await page.close()
            page = await self.visitor.open(address)
        else:
            [page] = pages
            dialog = page.get_by_role("dialog")
            if await dialog.count():
                await page.keyboard.press("Escape")
                await expect(dialog).to_have_count(0)
            await go_to(page, address)
        await expect(page.locator("h1")).to_be_visible()
        await expect(page.locator(".skeletons")).to_have_count(0)
        return page

    async def look(self, page: Page, state: str, *, part: str | None = None) -> None:
        """Have axe judge what `page` shows now; only the `part` at this selector, where all else is as it was."""
        for rule, target, summary in await page.evaluate(RUN, [part, OPTIONS]):
            self.found.append(f"{self.place}, {state}: {rule} at {target}\n  {' '.join(summary.split())}")


Look = Callable[[Inspector], Awaitable[None]]


async def look_at_the_login(see: Inspector) -> None:
    page = await see.open("/login?next=%2Fnodes")
    await see.look(page, "login")
    await page.get_by_label(see.say("login.username")).fill("admin")
    await page.get_by_label(see.say("login.password")).fill("wrong")
    await page.get_by_role("button", name=see.say("login.submit")).click()
    await expect(page.get_by_role("alert")).to_be_visible()
    await see.look(page, "login, refused")


async def look_at_the_reference(see: Inspector) -> None:
    """Without a session, and with an operation open as far as it goes."""
    page = await see.open("/docs")
    await expect(page.get_by_role("heading", level=2).first).to_be_visible()
    await see.look(page, "reference")
    # Without all others, which have been judged: axe reads the whole document even for a part of it.
    await page.get_by_role("searchbox").fill("/v1/chat/completions")
    await expect(page.locator(".docs-operation")).to_have_count(1)
    operation = "[id='openai.chat_completions']"
    chat = page.locator(operation)
    await chat.locator("summary").first.click()
    await expect(chat.locator("pre").first).to_be_visible()
    for summary in await chat.locator("details:not([open]) > summary").all():
        await summary.click()
    await see.look(page, "reference, an operation", part=operation)
    await page.get_by_role("searchbox").fill("nothing like it")
    await expect(page.locator(".empty")).to_be_visible()
    await see.look(page, "reference, nothing found", part=".empty")


async def look_at_models(see: Inspector) -> None:
    page = await see.open("/models")
    await expect(page.get_by_role("article")).to_have_count(6)
    for status in ("Available", "Registered", "Downloading", "Ready", "Error"):
        await expect(
            page.get_by_role("article").get_by_text(see.say(f"status.{status}")).first
        ).to_be_visible()
    await see.look(page, "hub")
    await page.get_by_role("article", name="giant").get_by_role("button").click()
    await expect(page.get_by_role("article", name="giant").get_by_role("alert")).to_be_visible()
    await see.look(page, "hub, a pull refused")
    await see.look(await see.open("/models?q=nothing+like+it"), "hub, nothing found")
    page = await see.open("/models/chat")
    await expect(page.locator(".memory-table")).to_be_visible()
    await see.look(page, "page of a model")

    page = await see.open("/models/local")
    # The stored one, and those on their way.
    await expect(page.get_by_role("article")).to_have_count(4)
    await see.look(page, "local")
    await page.get_by_role("button", name=see.say("action.delete"), exact=True).click()
    await expect(page.get_by_role("dialog")).to_be_visible()
    await see.look(page, "local, dialog before a deletion")


async def look_at_a_toast(see: Inspector) -> None:
    page = await see.open("/nodes")
    await see.visitor.llb.pull_model("free")
    await expect(
        page.get_by_role("paragraph").filter(has_text=see.say("toast.ready", name="free"))
    ).to_be_visible()
    await see.look(page, "a toast")
    assert (await see.visitor.llb.http.delete("/api/models/free")).is_success
    await see.visitor.llb.wait_for_status("free", "Available")


async def look_at_the_playground(see: Inspector) -> None:
    page = await see.open("/playground")
    await expect(page.get_by_role("textbox", name=see.say("playground.message"))).to_be_enabled()
    await see.look(page, "playground, no conversation yet")
    timings = {"predicted_per_second": 12.34}
    usage = {"prompt_tokens": 12, "completion_tokens": 90, "prompt_tokens_details": {"cached_tokens": 3}}
    end = {**STOP_CHUNK, "timings": timings, "usage": usage}
    await fake_completions(page, sse_completion(delta_chunk(content=ANSWER), end))
    await page.get_by_role("textbox", name=see.say("playground.message")).fill("What is there?\nTell me.")
    await page.get_by_role("button", name=see.say("playground.send")).click()
    await expect(page.get_by_role("log").locator("pre .hljs-keyword").first).to_be_visible()
    await see.look(page, "playground, a conversation")
    settings = page.get_by_role("button", name=see.say("playground.settings"))
    if await settings.get_attribute("aria-expanded") == "false":
        await settings.click()
    await expect(page.get_by_role("textbox", name=see.say("playground.system"))).to_be_visible()
    await see.look(page, "playground, its parameters")


async def look_at_nodes(see: Inspector) -> None:
    page = await see.open("/nodes")
    await see.look(page, "nodes")
    await page.get_by_role("button", name=see.say("nodes.add")).click()
    await expect(page.get_by_role("dialog").locator("code").first).to_contain_text("--join")
    await see.look(page, "nodes, dialog that adds one")
    page = await see.open("/nodes")
    await page.get_by_role("link", name=see.say("node.logs"), exact=True).click()
    await expect(page.get_by_role("region", name=see.say("logs.lines"))).to_be_visible()
    await see.look(page, "log of a node")
    page = await see.open("/nodes/endpoints")
    with ProviderStandIn("vllm") as vllm:
        new = {"base_url": vllm.base_url, "name": "box"}
        assert (await see.visitor.llb.http.post("/api/endpoints", json=new)).status_code == 201
    await expect(page.get_by_role("region", name="box")).to_be_visible()
    await see.look(page, "endpoints")
    await page.get_by_role("button", name=see.say("endpoints.add")).click()
    await see.look(page, "endpoints, dialog that adds one")
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name=see.say("spill.add")).click()
    await see.look(page, "endpoints, dialog of a spill rule")
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name=see.say("endpoints.budget"), exact=True).click()
    await see.look(page, "endpoints, dialog of budgets")
    await page.keyboard.press("Escape")
    for endpoint in (await see.visitor.llb.http.get("/api/endpoints")).json()["endpoints"]:
        await see.visitor.llb.http.delete(f"/api/endpoints/{endpoint['id']}")

    async def answer(route: Route) -> None:
        real = await route.fetch()
        [node] = (await real.json())["nodes"]
        await route.fulfill(response=real, json={"nodes": cluster(node)})

    await see.visitor.context.route("**/api/nodes", answer)
    page = await see.open("/nodes", reload=True)
    await page.get_by_role("button", name="host-0").click()
    await see.look(page, "nodes as a table, with one of them")
    await page.locator("#nodes-as-cards").click()
    await expect(page.get_by_role("heading", level=2)).to_have_count(12)
    await see.look(page, "nodes, each in another state")
    for opener in ("node.edit", "node.remove"):
        await page.get_by_role("button", name=see.say(opener)).first.click()
        await expect(page.get_by_role("dialog")).to_be_visible()
        await see.look(page, f"nodes, dialog of {opener}")
        await page.keyboard.press("Escape")
    for address in ("/models", "/models/local"):
        page = await see.open(address)
        await expect(page.get_by_role("list", name=see.say("local.nodes")).first).to_be_attached()
        await see.look(page, f"{address} of several nodes")
    await see.visitor.context.unroute("**/api/nodes")
    await page.close()


async def look_at_requests(see: Inspector) -> None:
    page = await see.open("/requests")
    await expect(page.get_by_role("region", name=see.say("log.table")).get_by_role("row")).not_to_have_count(
        0
    )
    await see.look(page, "requests")
    await see.look(await see.open("/requests?model=nothing+like+it"), "requests, nothing found")


async def look_at_access(see: Inspector) -> None:
    page = await see.open("/access")
    await see.look(page, "access")
    await page.get_by_role("button", name=see.say("keys.new.open")).click()
    dialog = page.get_by_role("dialog")
    await see.look(page, "access, dialog of a new key")
    await dialog.get_by_label(see.say("keys.new.name")).fill("laptop")
    await dialog.get_by_role("button", name=see.say("keys.new.action")).click()
    await expect(dialog.locator("code").first).to_contain_text("sk-")
    await see.look(page, "access, a key that was made")
    await dialog.get_by_role("button", name=see.say("keys.made.close")).click()
    await page.get_by_role("button", name=see.say("keys.limits.open")).first.click()
    await see.look(page, "access, dialog of the limits of a key")
    await page.keyboard.press("Escape")
    await page.get_by_role("button", name=see.say("users.new.open")).click()
    await see.look(page, "access, dialog of a new user")


async def look_at_settings(see: Inspector) -> None:
    await see.look(await see.open("/settings"), "settings")


async def look_at_the_empty_balancer(see: Inspector) -> None:
    for address in ("/models/local", "/playground", "/nodes", "/requests", "/access", "/settings"):
        await see.look(await see.open(address), f"{address} of an empty balancer")
    page = await see.open("/nodes")
    await page.get_by_role("button", name=see.say("nodes.add")).click()
    await expect(page.get_by_role("dialog").get_by_role("alert")).to_be_visible()
    await see.look(page, "nodes, nobody may join")


async def look_at_a_lost_connection(see: Inspector) -> None:
    """Only once: the balancer is not started again."""
    page = await see.open("/models/local")
    await see.visitor.llb.stop()
    await expect(page.get_by_text(see.say("connection.reconnect"))).to_be_visible()
    await see.look(page, "the connection is lost")


LOOKS: tuple[Look, ...] = (
    look_at_models,
    look_at_a_toast,
    look_at_the_playground,
    look_at_nodes,
    look_at_requests,
    look_at_access,
    look_at_settings,
)
DESK = {"width": 1280, "height": 860}
PHONE = {"width": 360, "height": 740}


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("scheme", "locale", "viewport"),
    [("light", "en", DESK), ("dark", "ja", PHONE)],
    ids=["light-en", "dark-ja-phone"],
)
async def test_nothing_to_object_to(
    balancer: RunningBalancer,
    empty_balancer: RunningBalancer,
    visitors: VisitorFactory,
    scheme: str,
    locale: str,
    viewport: dict[str, Any],
) -> None:
    place = f"{scheme} {locale} {viewport['width']}"
    # axe is brought in from outside: the page's own policy would refuse it.
    options = {"color_scheme": scheme, "locale": locale, "viewport": viewport, "bypass_csp": True}

    async def inspector(llb: RunningBalancer, **more: Any) -> Inspector:
        visitor = await visitors(llb, **more, **options)
        await visitor.context.add_init_script(AXE.read_text("utf-8"))
        return Inspector(visitor, locale, place)

    # First, while the download that stands still has not been restarted.
    owner = await inspector(balancer)
    for look in LOOKS:
        await look(owner)
    anonymous = await inspector(balancer, signed_in=False)
    await look_at_the_login(anonymous)
    await look_at_the_reference(anonymous)
    newcomer = await inspector(empty_balancer, signed_in=False)
    await newcomer.visitor.sign_in("admin", "test")
    await look_at_the_empty_balancer(newcomer)
    await look_at_a_lost_connection(owner)
    found = [*anonymous.found, *newcomer.found, *owner.found]
    assert found == [], "\n".join(found)
