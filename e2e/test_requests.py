"""Requests: how to send the first one, and figures that follow what is really asked."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Locator, Page, expect

from e2e.answers import ENDLESS_TOKENS
from e2e.conftest import ENGINE_DEADLINE_MS, SETTLED_WIDTH, VisitorFactory, async_fixture
from llb.gateway.observability.chart_history import ChartHistory
from llb.node import agent
from tests.conftest import BalancerFactory
from tests.harness import RunningBalancer, write_catalog
from tests.hub import HubStandIn

QUESTION = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
LONG = {"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": ENDLESS_TOKENS}


@async_fixture()
async def asked(
    make_llb: BalancerFactory,
    hub: HubStandIn,
    chat_gguf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> RunningBalancer:
    """A balancer whose heart beats quickly; `chat` answers at once."""
    monkeypatch.setattr(agent, "HEARTBEAT_INTERVAL_S", 0.1)
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    catalog = write_catalog(
        tmp_path / "requests.json",
        {"id": "chat", "name": "Chatterbox", "size_bytes": chat_gguf.stat().st_size},
    )
    llb = await make_llb(catalog=catalog, context=2048).start()
    await llb.wait_until_online()
    return llb


def tile(page: Page, name: str) -> Locator:
    return page.get_by_role("group", name=name, exact=True)


def loaded(page: Page) -> Locator:
    """The rows of the table of models in memory."""
    return page.get_by_role("region", name="Loaded models").get_by_role("row")


async def ask(llb: RunningBalancer, model: str = "chat") -> None:
    answer = await llb.http.post("/v1/chat/completions", json={**QUESTION, "model": model})
    assert answer.status_code == 200, answer.text


async def test_the_first_request(asked: RunningBalancer, visitors: VisitorFactory) -> None:
    visitor = await visitors(asked, permissions=["clipboard-read", "clipboard-write"])
    page = await visitor.open("/requests")
    main = page.get_by_role("main")
    await expect(main.get_by_role("heading", name="No requests yet")).to_be_visible()
    await expect(main.get_by_role("link", name="Open the Model Hub")).to_be_visible()

    await asked.pull_model("chat")
    await expect(main.get_by_role("heading", name="Send your first request")).to_be_visible()
    await main.get_by_role("button", name="Copy").focus()
    await page.keyboard.press("Enter")
    await expect(main.get_by_role("button", name="Copied")).to_be_focused()
    command = await page.evaluate("navigator.clipboard.readText()")

    # The copied command works once a key is put in.
    key = await asked.create_key("inference")
    program, url, *options = shlex.split(command.replace("sk-…", key).replace("\\\n", ""))
    assert program == "curl"
    pairs = list(zip(options[::2], options[1::2], strict=True))
    headers = dict(value.split(": ") for flag, value in pairs if flag == "-H")
    [body] = [value for flag, value in pairs if flag == "-d"]
    assert json.loads(body)["model"] == "chat"
    async with httpx.AsyncClient(trust_env=False, timeout=ENGINE_DEADLINE_MS / 1000) as curl:
        answer = await curl.post(url, headers=headers, content=body.encode())
    assert answer.status_code == 200, answer.text

    await expect(tile(page, "Completed requests")).to_contain_text("1")
    await expect(main.get_by_role("heading", name="Send your first request")).to_have_count(0)


async def test_the_links_of_the_first_request(asked: RunningBalancer, visitors: VisitorFactory) -> None:
    await asked.pull_model("chat")
    visitor = await visitors(asked)
    page = await visitor.open("/requests")
    main = page.get_by_role("main")
    await expect(main.get_by_role("link", name="Create an API key")).to_have_attribute("href", "/access")
    await expect(main.get_by_role("link", name="Try it in the Playground")).to_have_attribute(
        "href", "/playground?model=chat"
    )


async def test_figures_follow_what_is_asked(
    asked: RunningBalancer, visitors: VisitorFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def keep_minute(history: ChartHistory) -> None:
        """However long the test takes, the day has no point yet."""

    monkeypatch.setattr(ChartHistory, "_end_minute", keep_minute)
    await asked.pull_model("chat")
    visitor = await visitors(asked)
    page = await visitor.open("/requests")
    await expect(tile(page, "Completed requests")).to_contain_text("0")
    await expect(tile(page, "Busy slots")).to_contain_text("–")

    await ask(asked)
    await expect(tile(page, "Completed requests")).to_contain_text("1")
    await expect(tile(page, "Busy slots")).to_contain_text("0 of 4")
    await ask(asked)
    await ask(asked)
    await expect(tile(page, "Completed requests")).to_contain_text("3")

    row = loaded(page).filter(has_text="Chatterbox")
    await expect(row).to_contain_text("0 of 4")
    await expect(row).to_contain_text("attic")
    chart = page.get_by_role("img", name=re.compile(r"^Tokens per second: now .* peak .*\(Last 15 minutes\)"))
    await expect(chart).to_be_visible()
    # The history of the server: of each node, and over the last day.
    charts = page.get_by_role("region", name="Last 15 minutes", exact=True)
    await charts.get_by_role("combobox", name="Show").select_option(label="Each node")
    usage_of_cpu = page.get_by_role("img", name=re.compile(r"^CPU, attic: now .*%"))
    await expect(usage_of_cpu).to_be_visible()  # the server samples every five seconds
    await expect(charts.get_by_role("listitem")).to_have_text(["attic"])
    await charts.get_by_role("combobox", name="Period").select_option(label="Last 24 hours")
    day = page.get_by_role("region", name="Last 24 hours", exact=True)
    await expect(day.get_by_text("No figures for this period.")).to_be_visible()
    await day.get_by_role("combobox", name="Show").select_option(label="Each model")
    await day.get_by_role("combobox", name="Period").select_option(label="Last 15 minutes")
    await expect(charts.get_by_role("listitem")).to_have_text(["Chatterbox"])
    assert (await asked.http.post("/api/models/chat/unload")).status_code == 204
    await expect(row).to_have_count(0)
    await expect(tile(page, "Busy slots")).to_contain_text("–")


@pytest.mark.usefixtures("paced_engines")
async def test_an_answer_is_seen_while_it_is_written(
    asked: RunningBalancer, visitors: VisitorFactory
) -> None:
    await asked.pull_model("chat")
    await ask(asked)
    visitor = await visitors(asked)
    page = await visitor.open("/requests")
    row = loaded(page).filter(has_text="Chatterbox")
    await expect(row).to_contain_text("0 of 4")
    question = {**LONG, "model": "chat", "stream": True}
    async with asked.http.stream("POST", "/v1/chat/completions", json=question) as answer:
        assert answer.status_code == 200
        await expect(tile(page, "Running requests")).to_contain_text("1")
        await expect(tile(page, "Busy slots")).to_contain_text("1 of 4")
        await expect(row).to_contain_text("Generating")
        await expect(row).to_contain_text("1 of 4")
        answering = page.get_by_role("img", name=re.compile("^Running requests: now .* peak 1"))
        await expect(answering).to_be_visible()
    await expect(tile(page, "Running requests")).to_contain_text("0")
    await expect(row).to_contain_text("0 of 4")


async def test_the_charts_as_a_table_by_keyboard(asked: RunningBalancer, visitors: VisitorFactory) -> None:
    await asked.pull_model("chat")
    await ask(asked)
    visitor = await visitors(asked)
    page = await visitor.open("/requests")
    table = page.get_by_role("region", name="Last 15 minutes as a table").get_by_role("table")
    await expect(
        page.get_by_role("region", name="Last 15 minutes").get_by_text("Show as table")
    ).to_be_visible()
    await expect(table).to_have_count(0)
    await page.get_by_role("combobox", name="Show").focus()
    await page.keyboard.press("Tab")
    await expect(
        page.get_by_role("region", name="Last 15 minutes").get_by_text("Show as table")
    ).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(table.get_by_role("columnheader")).to_have_text(
        ["Time", "Tokens per second", "Running requests"]
    )
    await expect(table.get_by_role("row").nth(1).get_by_role("cell").last).to_have_text("0")


async def test_what_a_chart_says_where_one_points(
    asked: RunningBalancer, visitors: VisitorFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asked.pull_model("chat")
    await ask(asked)
    visitor = await visitors(asked)
    page = await visitor.open("/requests")
    await expect(tile(page, "Completed requests")).to_contain_text("1")
    monkeypatch.setattr(agent, "HEARTBEAT_INTERVAL_S", 60.0)  # so that nothing else has the page drawn
    for name in ("Tokens per second", "Running requests"):
        figure = page.get_by_role("figure", name=name)
        box = await page.get_by_role("img", name=re.compile("^Running requests")).bounding_box()
        assert box is not None
        await page.mouse.move(box["x"] + box["width"] - 1, box["y"] + 20)
        await expect(figure).to_contain_text(re.compile(r"\d at \d+:\d\d:\d\d"))
        await page.mouse.move(0, 0)
        await expect(figure).not_to_contain_text(re.compile(r"\d at \d"))


@pytest.mark.parametrize(("locale", "widths"), [("en", (360,)), ("ja", (360, 2560))], ids=["en", "ja"])
async def test_it_fits_its_window(
    asked: RunningBalancer, visitors: VisitorFactory, locale: str, widths: tuple[int, ...]
) -> None:
    visitor = await visitors(asked, locale=locale, viewport={"width": widths[0], "height": 800})
    page = await visitor.open("/requests")
    heading = {"en": "Requests", "ja": "リクエスト"}[locale]

    async def assert_that_it_fits() -> None:
        for width in widths:
            await page.set_viewport_size({"width": width, "height": 800})
            assert await page.evaluate(SETTLED_WIDTH) <= width

    await expect(page.get_by_role("heading", level=1)).to_have_text(heading)
    await assert_that_it_fits()
    await asked.pull_model("chat")
    await expect(
        page.get_by_role("heading", name={"en": "Send your first", "ja": "最初のリクエスト"}[locale])
    ).to_be_visible()
    await assert_that_it_fits()
    await ask(asked)
    await expect(page.get_by_role("table").first).to_be_visible()
    await assert_that_it_fits()


def history(page: Page) -> Locator:
    """The rows of the history."""
    return page.get_by_role("region", name="History", exact=True).locator("tbody").get_by_role("row")


async def test_the_history_grows_while_one_looks_and_can_be_filtered(
    asked: RunningBalancer, visitors: VisitorFactory
) -> None:
    await asked.pull_model("chat")
    key = await asked.create_key("inference")
    headers = {"Authorization": f"Bearer {key}"}
    page = await (await visitors(asked)).open("/requests")
    await expect(page.get_by_text("No requests yet.")).to_be_visible()

    await ask(asked)
    await expect(history(page)).to_have_count(1)
    await expect(history(page).first).to_contain_text("Chatterbox")
    await expect(history(page).first).to_contain_text("Command line")
    await expect(history(page).first).to_contain_text("OK")
    usage = page.get_by_role("region", name="Usage", exact=True)
    await expect(usage).to_contain_text("Chatterbox")

    answer = await asked.http.post(
        "/v1/chat/completions", json={**QUESTION, "model": "nowhere"}, headers=headers
    )
    assert answer.status_code == 404
    await ask(asked)
    await expect(history(page)).to_have_count(3)
    await page.get_by_role("combobox", name="Result").select_option(label="Failed")
    await expect(history(page)).to_have_count(1)
    await expect(history(page).first).to_contain_text("Unknown model")
    await expect(page).to_have_url(re.compile(r"/requests\?status=error$"))
    await page.reload()
    await expect(history(page)).to_have_count(1)
    await page.get_by_role("combobox", name="Key").select_option(label="test")
    await page.get_by_role("combobox", name="Result").select_option(label="Any result")
    await expect(history(page)).to_have_count(1)

    await usage.get_by_role("combobox", name="Metric").select_option(label="Requests")
    await usage.get_by_role("combobox", name="Group by").select_option(label="By key")
    await expect(usage).to_contain_text("test: 1")
    await expect(usage).to_contain_text("Command line: 2")
    await usage.get_by_role("combobox", name="Metric").select_option(label="Cost")
    await expect(usage).to_contain_text("Nothing was billed in this period.")
    async with page.expect_download() as saving:
        await usage.get_by_role("button", name="Download CSV").click()
    saved = (await (await saving.value).path()).read_text()
    assert [line.count(",") for line in saved.splitlines()] == [10, 10, 10]

    await usage.get_by_role("combobox", name="Period").select_option(label="Custom…")
    await expect(page).to_have_url(re.compile(r"key=.*&from=(\d{4}-\d\d-\d\d)&to=.*&period=custom$"))
    await usage.get_by_label("From").fill("2020-01-01")
    await usage.get_by_label("To", exact=True).fill("2020-01-02")
    await usage.get_by_role("combobox", name="Metric").select_option(label="Requests")
    await expect(usage).to_contain_text("No usage in this period.")
    await page.reload()
    await expect(usage.get_by_label("From")).to_have_value("2020-01-01")
    await expect(usage).to_contain_text("No usage in this period.")


async def test_older_requests_come_when_they_are_asked_for(
    asked: RunningBalancer, visitors: VisitorFactory
) -> None:
    await asked.pull_model("chat")
    for _ in range(55):
        answer = await asked.http.post("/v1/chat/completions", json={**QUESTION, "model": "nowhere"})
        assert answer.status_code == 404
    page = await (await visitors(asked)).open("/requests")
    await expect(history(page)).to_have_count(50)
    await page.get_by_role("button", name="Load older").click()
    await expect(history(page)).to_have_count(55)
    await expect(page.get_by_role("button", name="Load older")).to_have_count(0)
