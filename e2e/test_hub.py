"""The Model Hub as rows: groups, picks and their room, and the page of a model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from e2e.conftest import Visitor, VisitorFactory, async_fixture
from e2e.shop import CATALOG, SMOLLM2, SMOLLM2_NAME, add_catalog_repositories, model_card, save_screenshot
from tests.conftest import BalancerFactory
from tests.harness import RunningBalancer
from tests.hub import HubStandIn

# Models that are seen as a whole: neither below the window nor behind the navigation.
SEEN = """() => [...document.querySelectorAll('article')].filter((each) => {
  const { top, bottom, height, left, width } = each.getBoundingClientRect();
  return height && top >= 0 && each.contains(document.elementFromPoint(left + width / 2, bottom - 2));
}).length"""


@async_fixture()
async def shop(make_llb: BalancerFactory, hub: HubStandIn, smollm2: Path) -> RunningBalancer:
    """The shipped catalogue on a machine with 20 GB for models, nothing pulled yet."""
    add_catalog_repositories(hub, smollm2)
    llb = await make_llb(catalog=CATALOG, memory_limit_bytes=20_200_000_000).start()
    await llb.wait_until_online()
    return llb


async def groups(page: Page) -> list[str]:
    texts = await page.get_by_role("heading", level=2).all_text_contents()
    return [" ".join(text.split()) for text in texts]


async def test_groups_and_picks(shop: RunningBalancer, visitors: VisitorFactory) -> None:
    page = await (await visitors(shop, viewport={"width": 1440, "height": 900})).open()
    await expect(page.get_by_role("article")).to_have_count(47)
    assert await groups(page) == [
        "Start here",
        "Small · up to 4 GB of memory 16",
        "Medium · 4 to 12 GB 20",
        "Large · over 12 GB 7",
        "Doesn't fit on any node 4",
    ]
    picks = page.get_by_role("region", name="Start here")
    await expect(picks.get_by_role("link")).to_have_text([SMOLLM2_NAME, re.compile("30B"), re.compile(".")])

    # Folded, a model that fits nowhere shows its name and its requirements.
    giant = model_card(page, "Llama 3.3 70B Instruct")
    await expect(giant.get_by_text("Size")).to_have_count(1)
    await page.get_by_role("button", name="Show details").click()
    await expect(giant.get_by_text("128K")).to_be_visible()
    await page.get_by_role("button", name="Show less").click()
    await expect(giant.get_by_text("128K")).to_be_hidden()

    await picks.get_by_role("button", name=f"Pull {SMOLLM2_NAME}").click()
    await expect(picks).to_have_count(0)
    model = model_card(page, SMOLLM2_NAME)
    await expect(model).to_be_focused()
    await expect(model.get_by_role("button", name="Chat")).to_be_visible()
    assert (await groups(page))[0] == "On this cluster 1"
    assert await page.evaluate(SEEN) >= 12
    height: int = await page.evaluate("document.documentElement.scrollHeight")
    assert height < 4 * 900
    await page.get_by_role("button", name="Code 1").click()
    await expect(page.get_by_role("status").filter(has_text="of 47")).to_have_text("15 of 47 models")


@pytest.mark.parametrize(
    ("width", "height", "scheme", "locale"),
    [(720, 450, "light", "en"), (390, 844, "dark", "ja"), (900, 800, "dark", "en")],
    ids=["zoom-200", "phone", "tablet"],
)
async def test_models_are_in_the_first_screen(
    shop: RunningBalancer,
    visitors: VisitorFactory,
    width: int,
    height: int,
    scheme: str,
    locale: str,
) -> None:
    visitor = await visitors(
        shop, viewport={"width": width, "height": height}, color_scheme=scheme, locale=locale
    )
    page = await visitor.open()
    await expect(page.get_by_role("article").first).to_be_visible()
    assert await page.evaluate(SEEN) >= 1
    assert await page.evaluate("document.documentElement.scrollWidth") <= width
    await save_screenshot(page, f"hub-{width}")


async def test_the_page_of_a_model(shop: RunningBalancer, visitors: VisitorFactory) -> None:
    await shop.pull_model(SMOLLM2)
    question = {"model": SMOLLM2, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    assert (await shop.http.post("/v1/chat/completions", json=question)).status_code == 200
    visitor = await visitors(shop, permissions=["clipboard-read", "clipboard-write"])
    page = await visitor.open()
    await page.get_by_role("link", name="Qwen3 8B").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Qwen3 8B")
    await expect(page.get_by_role("heading", level=1)).to_be_focused()
    await expect(page).to_have_title("Qwen3 8B · llb")
    await expect(page.get_by_role("article").get_by_role("button", name="Pull")).to_be_visible()
    await page.go_back()
    await expect(page.get_by_role("article")).to_have_count(47)
    # Where the person was.
    await expect(page.get_by_role("link", name="Qwen3 8B")).to_be_in_viewport()

    await page.get_by_role("link", name=SMOLLM2_NAME).click()
    about = page.get_by_role("article", name=SMOLLM2_NAME)
    for text in ("The smallest chat model", "apache-2.0", "98.4 MB", "Q4_1"):
        await expect(about).to_contain_text(text)
    repository = about.get_by_role("link", name="SmolLM2-135M-Instruct-GGUF")
    await expect(repository).to_have_attribute("href", re.compile(r"^http://127.0.0.1:\d+/.+GGUF$"))
    memory = page.get_by_role("region", name="Memory").get_by_role("row")
    # No 32K: the model was trained for 8K.
    await expect(memory).to_have_text(
        [re.compile("Context"), re.compile(r"4K\s+362 MB"), re.compile(r"8K\s+552 MB")]
    )
    await expect(page.get_by_text("This machine can load it.")).to_be_visible()
    await expect(page.get_by_role("region", name="Files")).to_contain_text(re.compile("sha256 [0-9a-f]{12}…"))
    await expect(page.get_by_role("region", name="Nodes").get_by_role("listitem")).to_contain_text("Loaded")
    usage = page.get_by_role("region", name="Usage")
    await expect(usage).to_contain_text(re.compile(r"Requests\s*1"))
    code = page.get_by_role("region", name="Use it")
    for client, text in (
        ("Python", f'model="{SMOLLM2}"'),
        ("JavaScript", "await fetch"),
        ("Claude Code", f"claude --model {SMOLLM2}"),
        ("Open WebUI", f"OPENAI_API_BASE_URL={shop.url}/v1"),
        ("curl", f"curl {shop.url}/v1/chat/completions"),
    ):
        await code.get_by_role("button", name=client).click()
        await expect(code.locator("pre")).to_contain_text(text)
    await code.get_by_role("button", name="Copy").click()
    assert (await page.evaluate("navigator.clipboard.readText()")).startswith("curl ")
    await page.evaluate("scrollTo(0, 0)")
    await save_screenshot(page, "model")


async def test_a_model_that_there_is_not(visitor: Visitor) -> None:
    page = await visitor.open("/models/nothing")
    await expect(page.get_by_role("heading", name="No such model")).to_be_visible()
    await page.get_by_role("link", name="Open the Model Hub").click()
    await expect(page.get_by_role("article")).to_have_count(3)
