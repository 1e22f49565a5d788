"""Endpoints on the page: add, find out what answers, check, edit, disable, remove; errors where one looks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.async_api import Page, expect

from e2e.conftest import VisitorFactory
from e2e.shop import save_screenshot
from tests.conftest import BalancerFactory
from tests.providers import ProviderStandIn

KEY = "sk-stand-in-0123456789abcdef"
MODEL = "box/Qwen/Qwen3-8B"


@pytest.fixture
def vllm() -> Iterator[ProviderStandIn]:
    with ProviderStandIn("vllm", key=KEY) as stand_in:
        yield stand_in


async def test_an_endpoint_from_adding_to_removing(
    make_llb: BalancerFactory, visitors: VisitorFactory, vllm: ProviderStandIn
) -> None:
    llb = await make_llb(name="attic").start()
    await llb.wait_until_online()
    page = await (await visitors(llb)).open("/nodes")
    await page.get_by_role("tab", name="Endpoints").click()
    await expect(page.get_by_role("heading", name="No endpoints yet")).to_be_visible()
    await page.get_by_role("button", name="Add endpoint").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Base URL").fill(vllm.base_url)
    await dialog.get_by_label("Name").fill("box")
    await dialog.get_by_role("button", name="Add", exact=True).click()
    # The engine asks for a key: the dialog says so, and nothing that was typed is lost.
    await expect(dialog.get_by_role("alert")).to_contain_text("key")
    await expect(dialog.get_by_label("Base URL")).to_have_value(vllm.base_url)
    await dialog.get_by_label("API key").fill(KEY)
    await dialog.get_by_role("button", name="Add", exact=True).click()
    await expect(dialog).to_have_count(0)
    card = page.get_by_role("region", name="box")
    await expect(card).to_contain_text("vLLM")
    await expect(card).to_contain_text("Healthy")
    await expect(card).to_contain_text("ends in cdef")
    assert KEY not in await page.content()
    await card.locator("summary").click()
    await expect(card.get_by_role("listitem").first).to_contain_text("box/")
    await save_screenshot(page, "endpoints")
    model = card.get_by_role("listitem").first
    await model.get_by_role("button", name="Map…").click()
    await dialog.get_by_label("Model of the catalogue").select_option("other")
    await dialog.get_by_role("button", name="Map", exact=True).click()
    await expect(model).to_contain_text("Also answers as")
    await model.get_by_role("button", name="Separate").click()
    await expect(model).not_to_contain_text("Also answers as")
    await card.get_by_role("button", name="Edit").click()
    await dialog.get_by_label("Maximum concurrent requests").fill("a few")
    await dialog.get_by_role("button", name="Save").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("max_concurrency")
    await dialog.get_by_label("Maximum concurrent requests").fill("8")
    await dialog.get_by_label("Tags").fill("gpu、attic")
    prices = dialog.get_by_label("Prices")
    await expect(prices).to_have_value("")
    await prices.fill('{"*": {"input": 1, "service_tiers": {"flex": {"input": 0.5}}}}')
    await dialog.get_by_role("button", name="Save").click()
    await expect(card).to_contain_text("0 of 8")
    await card.get_by_role("button", name="Edit").click()
    await expect(prices).to_have_value('{"*":{"input":1,"service_tiers":{"flex":{"input":0.5}}}}')
    await dialog.get_by_role("button", name="Save").click()
    await expect(dialog).to_have_count(0)
    await card.get_by_role("button", name="Budget").click()
    await dialog.get_by_label("USD per day").fill("2.5")
    await dialog.get_by_role("button", name="Save budgets").click()
    budget = card.get_by_role("list", name="Budgets")
    await expect(budget).to_contain_text("$0.00 of $2.50")
    await expect(budget).to_contain_text("$2.50 left")
    await save_and_order_rules(page)
    await card.get_by_role("button", name="Disable").click()
    await expect(card).to_contain_text("Disabled")
    await card.get_by_role("button", name="Enable").click()
    await expect(card).to_contain_text("Healthy")
    vllm.stop()
    await card.get_by_role("button", name="Check now").click()
    await expect(card).to_contain_text("Offline")
    await card.get_by_role("button", name="Remove").click()
    await dialog.get_by_role("button", name="Remove").click()
    await expect(page.get_by_role("heading", name="No endpoints yet")).to_be_visible()


async def save_and_order_rules(page: Page) -> None:
    """Two spill rules for a model that is not pulled; the second is moved up, the first deleted."""
    rules, dialog = page.get_by_role("region", name="Spill rules"), page.get_by_role("dialog")
    for target, trigger in ((MODEL, "is busy"), ("other", "fails")):
        await rules.get_by_role("button", name="Add rule").click()
        await dialog.get_by_label("Model", exact=True).fill("tiny")
        await dialog.get_by_label("Target").fill(target)
        await dialog.get_by_role("checkbox", name="is not available").uncheck()
        await dialog.get_by_role("button", name="Save rule").click()
        await expect(dialog.get_by_role("alert")).to_contain_text("at least one")
        await dialog.get_by_role("checkbox", name=trigger).check()
        if trigger == "is busy":
            await dialog.get_by_label("Seconds without a free slot").fill("10")
        await dialog.get_by_role("button", name="Save rule").click()
        await expect(dialog).to_have_count(0)
    rows = rules.get_by_role("list", name="Rules of").get_by_role("listitem")
    await expect(rows.first).to_contain_text("is busy for 10 sec")
    await rules.get_by_role("button", name="Move other up").click()
    await expect(rows.first).to_contain_text("other")
    await rules.get_by_role("button", name="Delete rule for other").click()
    await expect(rows).to_have_count(1)


async def test_a_change_by_another_user_shows_at_once(
    make_llb: BalancerFactory, visitors: VisitorFactory, vllm: ProviderStandIn
) -> None:
    llb = await make_llb(name="attic").start()
    await llb.wait_until_online()
    page = await (await visitors(llb)).open("/nodes/endpoints")
    await expect(page.get_by_role("heading", name="No endpoints yet")).to_be_visible()
    new = {"base_url": vllm.base_url, "name": "box", "key": KEY}
    assert (await llb.http.post("/api/endpoints", json=new)).status_code == 201
    await expect(page.get_by_role("region", name="box")).to_contain_text("Healthy")


async def test_its_models_answer_in_the_playground(
    make_llb: BalancerFactory, visitors: VisitorFactory, vllm: ProviderStandIn
) -> None:
    llb = await make_llb(name="attic").start()
    await llb.wait_until_online()
    new = {"base_url": vllm.base_url, "name": "box", "key": KEY}
    assert (await llb.http.post("/api/endpoints", json=new)).status_code == 201
    page = await (await visitors(llb)).open("/playground")
    await page.get_by_label("Model").select_option("box/Qwen/Qwen3-8B")
    await expect(page.get_by_text("Answers come from the endpoint box.")).to_be_visible()
    await expect(page.locator("optgroup", has_text="box/")).to_have_attribute("label", "Chat · box (vLLM)")
    await page.get_by_role("textbox", name="Message").fill("Hello")
    await page.get_by_role("button", name="Send").click()
    await expect(page.get_by_text("tokens/s")).to_be_visible()
    assert any(request.path.endswith("/chat/completions") for request in vllm.requests)
