"""The shipped catalogue in front of the Hub's stand-in, with the one real model: what a new user
would see.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from playwright.async_api import Locator, Page

from tests.hub import HubStandIn
from tests.processes import ROOT

CATALOG = ROOT / "supported_models.json"
SMOLLM2 = "smollm2-135m"
SMOLLM2_NAME = "SmolLM2 135M Instruct"
# Where to put pictures of the page, for the documents:
# LLB_SHOTS=docs/images pytest e2e/test_walk.py e2e/test_looks.py e2e/test_peers.py
SCREENSHOT_DIR = os.environ.get("LLB_SHOTS")


def add_catalog_repositories(hub: HubStandIn, smollm2: Path) -> None:
    """Every repository of the shipped catalogue; only SmolLM2's file is the real one."""
    for rank, entry in enumerate(catalog_entries(), start=1):
        content: Any = smollm2 if entry["id"] == SMOLLM2 else b"GGUF"
        hub.add_repo(
            entry["repo"],
            {entry["recommended_filename"]: content},
            commit=entry.get("revision"),
            downloads=2_400_000 // rank,
            likes=1_800 // rank,
        )


def catalog_entries() -> list[dict[str, Any]]:
    return list(json.loads(CATALOG.read_text("utf-8")))


def model_card(page: Page, name: str) -> Locator:
    """The article of the model called `name`."""
    return page.get_by_role("article", name=name, exact=True)


# A picture for the documents shows no path of the machine that made it.
HIDE_HOME_SCRIPT = """() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    node.data = node.data.replace(/\\/\\S*?\\/(?:home|cellar|shed)(?=\\/models|$)/, '~/.local/share/llb');
  }
}"""


async def save_screenshot(page: Page, name: str) -> None:
    """Keep a picture of the page, where pictures are wanted."""
    if SCREENSHOT_DIR is not None:
        await page.evaluate(HIDE_HOME_SCRIPT)
        await page.screenshot(path=Path(SCREENSHOT_DIR) / f"{name}.png")
