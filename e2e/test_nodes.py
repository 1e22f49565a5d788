"""Nodes: hardware, models, and changes shown without a reload."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Locator, Page, Route, expect

from e2e.conftest import SETTLED_WIDTH, Visitor, VisitorFactory, async_fixture
from llb.node import agent
from tests.conftest import TINY_BYTES, BalancerFactory
from tests.harness import RunningBalancer, write_catalog
from tests.hub import HubStandIn

GB = 1_000_000_000
QUESTION = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "a" * 90,
    "\u202egnp.exe",
    "日本語の名前はとても長いことがあります",
    '"; --x: url(//evil.invalid)',
)


@async_fixture()
async def talking(
    make_llb: BalancerFactory,
    hub: HubStandIn,
    chat_gguf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> RunningBalancer:
    """A balancer that can load a model, and whose heart beats quickly."""
    monkeypatch.setattr(agent, "HEARTBEAT_INTERVAL_S", 0.1)
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    catalog = write_catalog(
        tmp_path / "nodes.json",
        {"id": "chat", "name": "Chatterbox", "size_bytes": chat_gguf.stat().st_size},
        {"id": "tiny", "size_bytes": TINY_BYTES},
    )
    llb = await make_llb(catalog=catalog).start()
    await llb.wait_until_online()
    return llb


def node_of(page: Page, name: str = "attic") -> Locator:
    return page.get_by_role("region", name=name, exact=True)


async def test_a_node_says_what_it_is(talking: RunningBalancer, visitors: VisitorFactory) -> None:
    visitor = await visitors(talking)
    page = await visitor.open("/nodes")
    node = node_of(page)
    await expect(node.get_by_role("heading", level=2)).to_have_text("attic")
    await expect(node).to_contain_text("Online")
    [seen] = (await talking.http.get("/api/nodes")).json()["nodes"]
    await expect(node).to_contain_text(f"llb {seen['version']} · Linux ")
    await expect(node).to_contain_text(seen["hardware"]["cpu"])
    await expect(node.get_by_role("meter", name="Memory", exact=True)).to_have_attribute(
        "aria-valuetext", re.compile(r"^Loaded models: 0 B, Free: [\d.,]+ GB$")
    )
    await expect(node.get_by_role("meter", name="Disk", exact=True)).to_have_attribute(
        "aria-valuetext", re.compile(r"^0 models: 0 B, Free: [\d.,]+ [GT]B$")
    )
    await expect(node.get_by_role("meter", name="CPU", exact=True)).to_be_visible()
    await expect(node.get_by_role("meter", name="RAM", exact=True)).not_to_have_attribute(
        "aria-valuenow", "0"
    )


async def test_a_load_and_an_unload_are_followed(talking: RunningBalancer, visitors: VisitorFactory) -> None:
    await talking.pull_model("chat")
    visitor = await visitors(talking)
    page = await visitor.open("/nodes")
    node = node_of(page)
    memory = node.get_by_role("meter", name="Memory", exact=True)
    await expect(node).to_contain_text("None. Models load on first use.")
    await expect(node.get_by_role("meter", name="Disk", exact=True)).to_have_attribute(
        "aria-valuetext", re.compile(r"^1 model: \d")
    )

    assert (await talking.http.post("/v1/chat/completions", json=QUESTION)).status_code == 200
    engine = node.get_by_role("list", name="Loaded models").get_by_role("listitem")
    await expect(engine).to_contain_text("Chatterbox")
    await expect(engine).to_contain_text("Loaded")
    await expect(engine).to_contain_text("0 of 4 slots busy")
    await expect(engine).to_contain_text(re.compile(r"\d+K? tokens per slot"))
    await expect(memory).to_have_attribute("aria-valuetext", re.compile(r"^Loaded model: [1-9][\d.]* MB, "))

    assert (await talking.http.post("/api/models/chat/unload")).status_code == 204
    await expect(node).to_contain_text("None. Models load on first use.")
    await expect(memory).to_have_attribute("aria-valuetext", re.compile(r"^Loaded models: 0 B, "))


async def test_a_download_is_shown_where_it_goes(
    talking: RunningBalancer, hub: HubStandIn, visitors: VisitorFactory
) -> None:
    stalled = hub.faults.stall(after=TINY_BYTES * 45 // 100)
    visitor = await visitors(talking)
    page = await visitor.open("/nodes")
    node = node_of(page)
    await talking.register_model("tiny")
    download = node.get_by_role("list", name="Downloads").get_by_role("listitem")
    progress = download.get_by_role("progressbar", name="Downloading tiny")
    await expect(progress).to_have_attribute("aria-valuenow", re.compile(r"^4[45]$"))
    await expect(download).to_contain_text(re.compile(r"4\d% [\d.]+ kB of 300 kB"))
    await expect(node).to_contain_text("Downloading")
    stalled.clear()
    await expect(download).to_have_count(0)
    await expect(node).to_contain_text("1 model 300 kB")


GPU_PROBLEM = "A GPU is present (<b>GeForce</b>), but llama.cpp runs on the CPU: run 'llb engine install'."


def cluster(node: dict[str, Any]) -> list[dict[str, Any]]:
    """`node` and eleven more, as other hosts would report themselves."""
    replica = {
        "model_id": "chat", "attempt": 1, "state": "ready", "downloaded_bytes": GB, "total_bytes": GB,
        "bytes_per_second": 0.0, "error": None, "path": None, "engine": None, "last_used": None,
    }  # fmt: skip
    engine = {
        "model_id": "chat", "state": "busy", "slots": 4, "busy": 3, "context_length": 8192,
        "memory_bytes": 3 * GB, "progress": None, "error": None, "pinned": False,
    }  # fmt: skip
    gpu = {"name": "GeForce", "memory_total_bytes": 24 * GB, "memory_free_bytes": 20 * GB}
    others = []
    for number in range(11):
        other = copy.deepcopy(node)
        other.update(id=f"n{number}", name=f"host-{number}", memory_budget_bytes=12 * GB)
        other.update(reach={"way": "direct", "answer_ms": 0.42}, address=f"http://192.0.2.{number}:8080")
        other.update(engines=[{**engine}], replicas=[{**replica}])
        others.append(other)
    for other, name in zip(others[6:], HOSTILE, strict=True):
        other["name"] = name
    others[0].update(status="offline", last_seen=node["last_seen"] - 7200)
    others[1].update(draining=True, active_requests=2)
    others[2].update(status="joining", engines=[], replicas=[])
    others[3]["hardware"]["gpus"] = [{**gpu, "usable": True}]
    others[3]["meters"].update(gpu_usage=0.5, gpu_memory_usage=0.25)
    others[3]["hardware"]["engine"] = {
        "build": "cuda", "version": "2026.10.11549", "variant": "cu128", "devices": [],
        "reason": "Build cu132 does not work here: it finds no GPU.",
    }  # fmt: skip
    others[4]["hardware"]["gpus"] = [{**gpu, "usable": False}, {**gpu, "usable": False, "hidden": True}]
    others[4]["hardware"]["engine"]["reason"] = GPU_PROBLEM
    others[4]["problems"] = [GPU_PROBLEM]
    # Of an earlier version.
    del others[5]["hardware"]["engine"], others[5]["problems"]
    others[5]["engines"] = [{**engine, "state": "failed", "error": "out of memory"}]
    others[6].update(reach={"way": "reverse", "answer_ms": 12.3}, version="0.0.9", tags=["gpu", "upstairs"])
    others[7].update(reach={"way": "none", "answer_ms": None}, address=None)
    failed = {**replica, "model_id": "tiny", "state": "error", "error": "the sha256 differs"}
    others[8]["replicas"] = [{**replica}, {**replica, "model_id": "gone", "state": "deleting"}, failed]
    return [node, *others]


async def open_cluster(visitor: Visitor) -> Page:
    async def answer(route: Route) -> None:
        real = await route.fetch()
        [node] = (await real.json())["nodes"]
        await route.fulfill(response=real, json={"nodes": cluster(node)})

    await visitor.context.route("**/api/nodes", answer)
    page = await visitor.open("/nodes")
    await expect(page.get_by_role("row")).to_have_count(13)
    assert await fits_its_window(page)
    await page.get_by_role("button", name="host-0").click()
    await expect(node_of(page, "host-0").get_by_role("heading", level=2)).to_be_visible()
    await page.locator("#nodes-as-cards").click()
    await expect(page.get_by_role("heading", level=2)).to_have_count(12)
    return page


async def fits_its_window(page: Page) -> bool:
    return bool(await page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


async def test_many_nodes_each_in_its_state(talking: RunningBalancer, visitors: VisitorFactory) -> None:
    page = await open_cluster(await visitors(talking))
    await expect(page.get_by_role("main")).to_contain_text("10 of 12 nodes online")
    away = node_of(page, "host-0")
    await expect(away).to_contain_text("Offline")
    await expect(away).to_contain_text("2 hours ago")
    await expect(away).to_contain_text("1 model, 1 GB")
    await expect(away.get_by_role("meter")).to_have_count(0)
    await expect(node_of(page, "host-1")).to_contain_text("Finishing 2 requests…")
    await expect(node_of(page, "host-2")).to_contain_text("Joining")
    fast = node_of(page, "host-3")
    await expect(fast.get_by_role("meter", name="GPU", exact=True)).to_have_attribute("aria-valuenow", "50")
    await expect(fast.get_by_role("meter", name="VRAM")).to_have_attribute("aria-valuenow", "25")
    await expect(fast.get_by_role("meter", name="Memory", exact=True)).to_have_attribute(
        "aria-valuenow", "25"
    )
    await expect(fast.get_by_role("list", name="Loaded models")).to_contain_text("3 of 4 slots busy")
    await expect(fast).not_to_contain_text("not supported by the installed engine")
    await expect(fast).to_contain_text("llama.cpp 11549, CUDA · Build cu132 does not work here")
    slow = node_of(page, "host-4")
    await expect(slow).to_contain_text("Detected, but not supported by the installed engine")
    await expect(slow).to_contain_text("Hidden from programs on this host")
    # Once, as a note.
    await expect(slow.get_by_text(GPU_PROBLEM)).to_have_count(1)
    await expect(node_of(page, "host-5")).not_to_contain_text("llama.cpp")
    await expect(node_of(page, "host-5").get_by_role("alert")).to_have_text("out of memory")


async def test_hostile_names_stay_names_at_every_width(
    talking: RunningBalancer, visitors: VisitorFactory
) -> None:
    page = await open_cluster(await visitors(talking, viewport={"width": 360, "height": 800}))
    for width in (360, 1280, 2560):
        await page.set_viewport_size({"width": width, "height": 800})
        for name in HOSTILE:
            await expect(node_of(page, name)).to_be_visible()
        assert await page.locator("main img").count() == 0
        assert await page.evaluate(SETTLED_WIDTH) <= width
    # As a table, which fits the narrow window.
    await page.locator("#nodes-as-table").click()
    await expect(page.get_by_role("row")).to_have_count(13)
    for width in (1280, 2560):
        await page.set_viewport_size({"width": width, "height": 800})
        assert await page.evaluate(SETTLED_WIDTH) <= width


async def test_in_japanese(talking: RunningBalancer, visitors: VisitorFactory) -> None:
    page = await open_cluster(
        await visitors(talking, locale="ja", color_scheme="dark", viewport={"width": 360, "height": 800})
    )
    await expect(page.get_by_role("heading", level=1)).to_have_text("ノード")
    await expect(node_of(page)).to_contain_text("オンライン")
    await expect(node_of(page, "host-0")).to_contain_text("2 時間前")
    await expect(node_of(page).get_by_role("meter", name="メモリ")).to_be_visible()
    assert await fits_its_window(page)
