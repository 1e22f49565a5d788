"""Several machines: joining one from the page, its card, and the actions of an administrator."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from playwright.async_api import Locator, Page, expect

from e2e.conftest import SETTLED_WIDTH, VisitorFactory, async_fixture
from e2e.shop import (
    CATALOG,
    SMOLLM2,
    SMOLLM2_NAME,
    add_catalog_repositories,
    catalog_entries,
    model_card,
    save_screenshot,
)
from e2e.test_nodes import node_of
from llb.node import agent
from tests.conftest import TINY_BYTES, BalancerFactory, JoinedNodeFactory
from tests.harness import PASSWORD, RunningBalancer, RunningJoinedNode, write_catalog
from tests.hub import HubStandIn
from tests.hub.content import tiny_gguf

NOMIC = "Nomic Embed Text v1.5"


@async_fixture()
async def attic(
    make_llb: BalancerFactory, hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RunningBalancer:
    """A balancer without joined hosts; heartbeats are frequent."""
    monkeypatch.setattr(agent, "HEARTBEAT_INTERVAL_S", 0.2)
    catalog = write_catalog(
        tmp_path / "peers.json",
        {"id": "tiny", "name": "Tiny", "size_bytes": TINY_BYTES},
        {"id": "other", "name": "Other", "size_bytes": TINY_BYTES},
    )
    llb = await make_llb(catalog=catalog).start()
    await llb.wait_until_online()
    return llb


@async_fixture()
async def cellar(attic: RunningBalancer, make_node: JoinedNodeFactory) -> RunningJoinedNode:
    """A host that has joined the attic."""
    joined = await make_node(attic, "cellar").start()
    await joined.wait_until_online()
    return joined


def toast(page: Page, text: str) -> Locator:
    return page.locator(".toast").filter(has_text=text)


async def dismiss_toasts(page: Page) -> None:
    # At once: one that leaves by itself meanwhile would be waited for.
    await page.evaluate("document.querySelectorAll('.toast button').forEach((each) => each.click())")
    await expect(page.locator(".toast")).to_have_count(0)


async def press(node: Locator, name: str) -> None:
    await node.get_by_role("button", name=name).click()


# --- all of it, with the real model ------------------------------------------------------------------


@async_fixture()
async def shop(make_llb: BalancerFactory, hub: HubStandIn, smollm2: Path, tmp_path: Path) -> RunningBalancer:
    """The shipped catalogue; SmolLM2 is the real one, Nomic Embed is as large as the real one."""
    add_catalog_repositories(hub, smollm2)
    [nomic] = [entry for entry in catalog_entries() if entry["name"] == NOMIC]
    blank = tmp_path / "nomic.gguf"
    blank.write_bytes(tiny_gguf())
    os.truncate(blank, nomic["size_bytes"])
    hub.add_repo(nomic["repo"], {nomic["recommended_filename"]: blank})
    llb = await make_llb(
        catalog=CATALOG,
        context=2048,
        memory_limit_bytes=16_000_000_000,
        host="0.0.0.0",  # the command is of use to others; the tests' socket stays on loopback
        advertise="http://attic.lan:8080",
    ).start()
    await llb.wait_until_online()
    return llb


async def test_two_more_machines(
    shop: RunningBalancer, hub: HubStandIn, make_node: JoinedNodeFactory, visitors: VisitorFactory
) -> None:
    await shop.pull_model(SMOLLM2)
    question = {"model": SMOLLM2, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    assert (await shop.http.post("/v1/chat/completions", json=question)).status_code == 200
    page = await (await visitors(shop)).open("/nodes")
    await page.get_by_role("button", name="Add node").click()
    dialog = page.get_by_role("dialog")
    command = await dialog.locator("code").first.inner_text()
    assert command.startswith("./install.sh run --join http://attic.lan:8080 --token llbj-")
    cellar = await make_node(
        shop, "cellar", join_token=command.split()[-1], memory_limit_bytes=24_000_000_000
    ).start()
    await expect(dialog.get_by_role("status")).to_have_text("cellar has joined.")
    await save_screenshot(page, "add-node")
    await press(dialog, "Close")

    shed = await make_node(shop, "shed", memory_limit_bytes=8_000_000_000).start()
    await expect(toast(page, "shed has joined.")).to_be_visible()
    for node in (cellar, shed):
        await node.wait_until_online()
        # Models that were here before are copied to them without a click.
        await expect(node_of(page, node.app.config.name).get_by_role("list", name="On disk")).to_contain_text(
            SMOLLM2_NAME
        )

    await press(node_of(page, "shed"), "Edit")
    await dialog.get_by_label("Name", exact=True).fill("garage")
    await dialog.get_by_label("Tags").fill("gpu, downstairs")
    await press(dialog, "Save")
    stalled = hub.faults.stall(after=90_000_000)
    await page.get_by_role("link", name="Models").click()
    await press(model_card(page, NOMIC), "Pull")
    await expect(model_card(page, NOMIC).get_by_role("list", name="Nodes")).to_have_text(
        re.compile(r"^\s*attic 6\d%\s*cellar 6\d%\s*garage 6\d%\s*$")
    )
    await page.get_by_role("link", name="Nodes").click()
    await press(node_of(page, "garage"), "Drain")
    await expect(node_of(page, "garage")).to_contain_text("Drained")
    for name in ("attic", "cellar", "garage"):
        await expect(node_of(page, name).get_by_role("progressbar")).to_have_attribute(
            "aria-valuenow", re.compile(r"6\d")
        )
    await page.set_viewport_size({"width": 1720, "height": 1140})
    await page.evaluate("scrollTo(0, 0)")
    await dismiss_toasts(page)
    await save_screenshot(page, "nodes")
    stalled.clear()
    await press(node_of(page, "garage"), "Resume")
    for name in ("attic", "cellar", "garage"):
        await expect(node_of(page, name).get_by_role("list", name="On disk")).to_contain_text(NOMIC)

    await cellar.stop()
    await expect(toast(page, "cellar went offline.")).to_be_visible()
    await expect(node_of(page, "cellar")).to_contain_text("Offline")
    await expect(node_of(page, "cellar")).to_contain_text("2 models, 245 MB")
    await page.set_viewport_size({"width": 1280, "height": 860})
    await page.get_by_role("link", name="Models").click()
    await page.get_by_role("tab", name="Local").click()
    await expect(model_card(page, SMOLLM2_NAME).get_by_role("listitem")).to_contain_text(
        ["attic", "cellar Offline", "garage"], use_inner_text=True
    )
    await dismiss_toasts(page)
    await save_screenshot(page, "local-nodes")
    await page.get_by_role("link", name="Nodes").click()
    await cellar.start(cellar.port)
    await expect(toast(page, "cellar is back online.")).to_be_visible()
    await press(node_of(page, "cellar"), "Remove")
    await press(dialog, "Remove")
    await expect(page.get_by_role("region", name="cellar")).to_have_count(0)
    await expect(page.get_by_role("main")).to_contain_text("2 of 2 nodes online")


# --- joining -----------------------------------------------------------------------------------------


async def test_a_machine_joins_with_the_command_from_the_page(
    attic: RunningBalancer, make_node: JoinedNodeFactory, visitors: VisitorFactory
) -> None:
    page = await (await visitors(attic)).open("/nodes")
    await expect(page.get_by_role("heading", name="Add more machines")).to_be_visible()
    await page.get_by_role("button", name="Add node").click()
    dialog = page.get_by_role("dialog", name="Add node")
    command = dialog.get_by_role("group", name="Command")
    await expect(command).to_be_focused()
    await expect(command).to_contain_text(f"./install.sh run --join {attic.url} --token llbj-")
    await expect(dialog).to_contain_text("The command works once, until ")
    await expect(dialog).to_contain_text("it only listens on localhost")
    await expect(dialog.get_by_role("status")).to_have_text("Waiting for a machine to join…")
    text = await command.locator("code").inner_text()

    joined = await make_node(attic, "cellar", join_token=text.split()[-1]).start()
    await expect(dialog.get_by_role("status")).to_have_text("cellar has joined.")
    await press(dialog, "Generate new command")
    await expect(command).not_to_contain_text(text)
    await expect(dialog.get_by_role("status")).to_have_text("cellar has joined.")
    await press(dialog, "Close")
    await expect(page.get_by_role("button", name="Add node")).to_be_focused()
    await expect(toast(page, "cellar has joined.")).to_be_visible()

    await joined.wait_until_online()
    node = node_of(page, "cellar")
    await expect(node).to_contain_text("Online")
    await expect(node).to_contain_text(re.compile(r"Direct, \d+(\.\d)? ms"))
    await expect(node).to_contain_text(joined.url)
    await expect(node_of(page)).to_contain_text("This machine")
    await expect(page.get_by_role("main")).to_contain_text("2 of 2 nodes online")
    await expect(page.get_by_role("heading", name="Add more machines")).to_have_count(0)


async def test_the_command_can_be_copied_and_the_keyboard_is_enough(
    attic: RunningBalancer, visitors: VisitorFactory
) -> None:
    visitor = await visitors(attic, permissions=["clipboard-read", "clipboard-write"])
    page = await visitor.open("/nodes")
    await page.get_by_role("button", name="Add node").focus()
    await page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_role("group", name="Command")).to_be_focused()
    command = await dialog.locator("code").first.inner_text()
    await page.keyboard.press("Tab")
    await expect(dialog.get_by_role("button", name="Copy")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(dialog).to_contain_text("Copied")
    assert await page.evaluate("navigator.clipboard.readText()") == command
    await page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    await expect(page.get_by_role("button", name="Add node")).to_be_focused()


async def test_with_the_default_password_nobody_joins_and_the_page_says_what_to_do(
    make_llb: BalancerFactory, visitors: VisitorFactory
) -> None:
    llb = await make_llb(admin_password=None).start()
    await llb.wait_until_online()
    visitor = await visitors(llb, signed_in=False)
    await visitor.sign_in(password="test")
    page = await visitor.open("/nodes")
    await page.get_by_role("button", name="Add node").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_role("alert")).to_contain_text(
        "Change the default password before adding nodes"
    )
    await expect(dialog.get_by_role("button", name="Generate new command")).to_have_count(0)
    await dialog.get_by_role("link", name="Change password").click()
    await expect(dialog).to_have_count(0)
    await expect(page.get_by_label("Current password")).to_be_focused()


async def test_who_is_no_administrator_only_looks(
    attic: RunningBalancer, cellar: RunningJoinedNode, visitors: VisitorFactory
) -> None:
    person = {"username": "ann", "password": PASSWORD}
    assert (await attic.http.post("/api/users", json=person)).status_code == 201
    visitor = await visitors(attic, signed_in=False)
    await visitor.sign_in("ann")
    page = await visitor.open("/nodes")
    await expect(node_of(page, "cellar")).to_contain_text("Online")
    await expect(page.get_by_role("main").get_by_role("button")).to_have_count(0)
    await expect(node_of(page, "cellar")).not_to_contain_text(cellar.url)


# --- what is seen ------------------------------------------------------------------------------------


async def test_a_pull_is_followed_on_each_node(
    attic: RunningBalancer, cellar: RunningJoinedNode, hub: HubStandIn, visitors: VisitorFactory
) -> None:
    visitor = await visitors(attic)
    nodes, page = await visitor.open("/nodes"), await visitor.open()
    # It has no nodes yet, and takes no room.
    await expect(model_card(page, "Tiny").locator(".model-locations")).to_be_empty()
    await expect(model_card(page, "Tiny").get_by_role("list", name="Nodes")).to_have_count(0)
    stalled = hub.faults.stall(after=TINY_BYTES * 45 // 100)
    await press(model_card(page, "Tiny"), "Pull")
    where = model_card(page, "Tiny").get_by_role("list", name="Nodes").get_by_role("listitem")
    await expect(where).to_have_text([re.compile(r"attic 4\d%"), re.compile(r"cellar 4\d%")])
    for name in ("attic", "cellar"):
        bar = node_of(nodes, name).get_by_role("progressbar", name="Downloading Tiny")
        await expect(bar).to_have_attribute("aria-valuenow", re.compile("4[0-5]"))
    stalled.clear()
    await expect(model_card(page, "Tiny")).to_contain_text("Ready on 2 nodes")
    await expect(where).to_have_text([re.compile(r"attic\s+Ready"), re.compile(r"cellar\s+Ready")])
    for name in ("attic", "cellar"):
        await expect(node_of(nodes, name).get_by_role("list", name="On disk")).to_contain_text("Tiny 300 kB")

    await page.get_by_role("tab", name="Local").click()
    holders = model_card(page, "Tiny").get_by_role("list", name="Nodes").get_by_role("listitem")
    await expect(holders).to_have_text(
        [re.compile(r"attic\s+Ready\s.*tiny.gguf"), re.compile(r"cellar\s+Ready\s.*tiny.gguf")]
    )
    await cellar.stop()
    await expect(holders.nth(1)).to_contain_text("Offline")
    await press(model_card(page, "Tiny"), "Delete")
    await expect(page.get_by_role("dialog")).to_contain_text(
        "cellar is offline. Its files will be deleted when it is back online."
    )
    await page.keyboard.press("Escape")
    await page.get_by_role("tab", name="Model Hub").click()
    await expect(model_card(page, "Tiny")).to_contain_text("Ready on 1 of 2 nodes")


async def test_a_model_that_fails_on_one_node_is_told_there(
    attic: RunningBalancer, cellar: RunningJoinedNode, hub: HubStandIn, visitors: VisitorFactory
) -> None:
    await attic.pull_model("tiny")
    await attic.wait_until(lambda: attic.app.cluster.view.status_of("tiny").available_nodes == 2)
    await cellar.stop()
    (cellar.home / "models" / "tiny" / "tiny.gguf").write_bytes(tiny_gguf(TINY_BYTES, seed="another"))
    hub.faults.corrupt()
    await cellar.start()
    visitor = await visitors(attic)
    page = await visitor.open("/nodes")
    await expect(node_of(page, "cellar").get_by_role("alert")).to_contain_text(
        "Tiny: file changed since it was verified: tiny.gguf"
    )
    await page.goto(f"{attic.url}/models")
    await expect(model_card(page, "Tiny")).to_contain_text("Ready on 1 of 2 nodes")
    await expect(model_card(page, "Tiny").get_by_role("list", name="Nodes")).to_contain_text("cellar Failed")


async def test_a_node_that_goes_stays_visible_and_comes_back(
    attic: RunningBalancer, cellar: RunningJoinedNode, visitors: VisitorFactory
) -> None:
    await attic.pull_model("tiny")
    await attic.wait_until(lambda: attic.app.cluster.view.status_of("tiny").available_nodes == 2)
    page = await (await visitors(attic)).open("/nodes")
    node = node_of(page, "cellar")
    await expect(node).to_contain_text("Online")
    await cellar.stop()
    await expect(toast(page, "cellar went offline.")).to_be_visible()
    await expect(node).to_contain_text("Offline")
    await expect(node).to_contain_text(re.compile(r"last seen (now|\d+ (second|minute)s? ago)"))
    await expect(node).to_contain_text("1 model, 300 kB")
    await expect(node.get_by_role("list", name="On disk")).to_contain_text("Tiny")
    await expect(node.get_by_role("meter")).to_have_count(0)
    await expect(page.get_by_role("main")).to_contain_text("1 of 2 nodes online")
    await cellar.start(cellar.port)
    await expect(toast(page, "cellar is back online.")).to_be_visible()
    await expect(toast(page, "went offline")).to_have_count(0)
    await expect(node).to_contain_text("Online")
    await expect(node.get_by_role("meter", name="Memory", exact=True)).to_be_visible()


# --- what is done ------------------------------------------------------------------------------------


async def test_a_node_is_drained_and_taken_back(
    attic: RunningBalancer, cellar: RunningJoinedNode, visitors: VisitorFactory
) -> None:
    page = await (await visitors(attic)).open("/nodes")
    for name, text in (("cellar", "It can be switched off now."), ("attic", "new ones go to other nodes")):
        node = node_of(page, name)
        await press(node, "Drain")
        await expect(node).to_contain_text(text)
        back = node.get_by_role("button", name="Resume")
        await expect(back).to_be_focused()
        await expect(back).to_be_enabled()
        await page.keyboard.press("Enter")
        await expect(node).not_to_contain_text(text)
        await expect(node.get_by_role("button", name="Drain")).to_be_focused()


async def test_a_node_is_renamed_and_tagged(
    attic: RunningBalancer, cellar: RunningJoinedNode, visitors: VisitorFactory
) -> None:
    page, other = await (await visitors(attic)).open("/nodes"), await (await visitors(attic)).open("/nodes")
    await press(node_of(page, "cellar"), "Edit")
    dialog = page.get_by_role("dialog", name="Edit cellar")
    name, tags = dialog.get_by_label("Name", exact=True), dialog.get_by_label("Tags", exact=True)
    await expect(name).to_be_focused()
    await expect(name).to_have_value("cellar")
    for wrong, why in (
        ("a b", "A name starts with a letter"),
        ("attic", "Another node already has this name."),
    ):
        await name.fill(wrong)
        await press(dialog, "Save")
        await expect(dialog.get_by_role("alert")).to_contain_text(why)
    await name.fill("garage")
    await tags.fill("gpu, <b>")
    await press(dialog, "Save")
    await expect(dialog.get_by_role("alert")).to_contain_text("Up to 32 tags")
    await tags.fill("gpu, upstairs gpu")
    await page.keyboard.press("Enter")
    await expect(dialog).to_have_count(0)
    await expect(node_of(page, "garage").get_by_role("button", name="Edit")).to_be_focused()
    for each in (page, other):
        chips = node_of(each, "garage").get_by_role("list", name="Tags").get_by_role("listitem")
        await expect(chips).to_have_text(["gpu", "upstairs"])


async def test_the_own_node_is_neither_renamed_nor_removed(
    attic: RunningBalancer, cellar: RunningJoinedNode, visitors: VisitorFactory
) -> None:
    page = await (await visitors(attic)).open("/nodes")
    await expect(node_of(page).get_by_role("button")).to_have_text(["Edit", "Drain"])
    await expect(node_of(page, "cellar").get_by_role("button")).to_have_text(["Edit", "Drain", "Remove"])
    await press(node_of(page), "Edit")
    dialog = page.get_by_role("dialog", name="Tags of attic")
    await expect(dialog.get_by_role("textbox")).to_have_count(1)
    await dialog.get_by_label("Tags").fill("main")
    await press(dialog, "Save")
    await expect(node_of(page).get_by_role("list", name="Tags")).to_have_text("main")


async def test_a_node_is_removed_after_a_question(
    attic: RunningBalancer, cellar: RunningJoinedNode, visitors: VisitorFactory
) -> None:
    await attic.pull_model("tiny")
    await attic.wait_until(lambda: attic.app.cluster.view.status_of("tiny").available_nodes == 2)
    page = await (await visitors(attic)).open("/nodes")
    await press(node_of(page, "cellar"), "Remove")
    dialog = page.get_by_role("dialog", name="Remove cellar?")
    await expect(dialog).to_contain_text("The model on its disk is kept: 300 kB.")
    await expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    await press(dialog, "Cancel")
    await expect(node_of(page, "cellar").get_by_role("button", name="Remove")).to_be_focused()
    await press(node_of(page, "cellar"), "Remove")
    await press(dialog, "Remove")
    await expect(node_of(page, "cellar")).to_have_count(0)
    await expect(page.get_by_role("heading", level=1)).to_be_focused()
    await expect(page.get_by_role("heading", name="Add more machines")).to_be_visible()
    await expect(page.locator(".toast")).to_have_count(0)
    assert (cellar.home / "models" / "tiny" / "tiny.gguf").exists()
    await page.goto(f"{attic.url}/models")
    await expect(model_card(page, "Tiny")).to_contain_text("Ready on 1 node")


async def test_a_node_that_is_removed_elsewhere_leaves_without_a_word(
    attic: RunningBalancer, cellar: RunningJoinedNode, visitors: VisitorFactory
) -> None:
    page = await (await visitors(attic)).open("/nodes")
    await expect(node_of(page, "cellar")).to_contain_text("Online")
    await cellar.stop()
    await expect(toast(page, "went offline")).to_be_visible()
    await node_of(page, "cellar").get_by_role("button", name="Drain").focus()
    assert (await attic.http.delete(f"/api/nodes/{cellar.id}")).status_code == 204
    await expect(node_of(page, "cellar")).to_have_count(0)
    await expect(page.locator(".toast")).to_have_count(0)
    await expect(page.get_by_role("heading", level=1)).to_be_focused()


# --- sizes and pictures ------------------------------------------------------------------------------


async def test_dialogs_fit_their_window(
    attic: RunningBalancer, cellar: RunningJoinedNode, visitors: VisitorFactory
) -> None:
    page = await (await visitors(attic, viewport={"width": 360, "height": 740})).open("/nodes")
    for opener in ("Add node", "Edit", "Remove"):
        await page.get_by_role("button", name=opener).last.click()
        for width in (360, 2560):
            await page.set_viewport_size({"width": width, "height": 740})
            await expect(page.get_by_role("dialog").get_by_role("button").last).to_be_in_viewport()
            assert await page.evaluate(SETTLED_WIDTH) <= width
            box = await page.get_by_role("dialog").bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
        await page.keyboard.press("Escape")
