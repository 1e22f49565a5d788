"""Requests for conversations, as the page sends them."""

from __future__ import annotations

from typing import Any

from tests.api.playground.conftest import Playground

SETTINGS = {"system": "Be brief.", "parameters": {"temperature": 0.5}, "stop": "END"}


def message(name: str, parent: str | None = None, text: str = "", **fields: Any) -> dict[str, Any]:
    return {"id": name, "parent_id": parent, "role": "user", "text": text or name, **fields}


async def put(playground: Playground, conversation: str, *messages: dict[str, Any]) -> None:
    for each in messages:
        path = f"/api/conversations/{conversation}/messages/{each['id']}"
        answer = await playground.call("PUT", path, each)
        assert answer.status == 204, answer.body


async def create(playground: Playground, name: str, **fields: Any) -> None:
    answer = await playground.call("PATCH", f"/api/conversations/{name}", fields)
    assert answer.status == 204, answer.body


async def listed(playground: Playground, query: str = "") -> list[dict[str, Any]]:
    return list((await playground.call("GET", f"/api/conversations{query}")).json["conversations"])
