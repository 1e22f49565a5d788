"""Who may set which limits of a key, and where they are seen."""

from __future__ import annotations

from typing import Any

import pytest

from llb.store.tables import keys
from llb.wire import KeyLimits
from tests.api.http_server import Answer, Door

NONE = {"requests_per_minute": None, "tokens_per_minute": None, "concurrent": None}


async def make(door: Door, credential: tuple[str, str], **body: object) -> Answer:
    return await door.call("POST", "/api/keys", credential, json_body={"name": "mine", **body})


async def change(door: Door, credential: tuple[str, str], key_id: str, limits: object) -> Answer:
    return await door.call("PATCH", f"/api/keys/{key_id}", credential, json_body={"limits": limits})


def bearer(answer: Answer) -> tuple[str, str]:
    assert answer.status == 201, answer.body
    return ("Authorization", f"Bearer {answer.json['key']}")


async def shown(door: Door, credential: tuple[str, str]) -> dict[str, Any]:
    [key] = (await door.call("GET", "/api/keys", credential)).json["keys"]
    return dict(key)


async def test_limits_are_given_at_creation_and_changed_later(door: Door) -> None:
    admin = await door.log_in()
    made = await make(door, admin, limits={"requests_per_minute": 60, "concurrent": 2})
    assert made.json["limits"] == {**NONE, "requests_per_minute": 60, "concurrent": 2}
    assert (await shown(door, admin))["limits"] == made.json["limits"]

    # What is not named stays; null takes away.
    key_id = made.json["id"]
    changed = await change(door, admin, key_id, {"tokens_per_minute": 5000, "concurrent": None})
    assert changed.json["limits"] == {**NONE, "requests_per_minute": 60, "tokens_per_minute": 5000}
    assert (await shown(door, admin)) == changed.json
    stored = await keys.get(door.db, key_id)
    assert stored is not None
    assert stored.limits == KeyLimits(requests_per_minute=60, tokens_per_minute=5000)
    assert (await change(door, admin, key_id, None)).json["limits"] == NONE
    name = f"mine ({made.json['prefix']}…)"
    assert [act for act in await door.audited() if act[1] == "key.limits"] == [
        ("admin", "key.limits", f"{name}: 60 requests a minute, 5000 tokens a minute", "ok"),
        ("admin", "key.limits", f"{name}: no limits", "ok"),
    ]


async def test_without_limits_nothing_is_limited(door: Door) -> None:
    admin = await door.log_in()
    made = await make(door, admin)
    assert made.json["limits"] == NONE
    key = await door.identity.authenticate_key(made.json["key"])
    assert key.limits is None


async def test_a_change_counts_at_once(door: Door) -> None:
    admin = await door.log_in()
    made = await make(door, admin)
    assert (await door.identity.authenticate_key(made.json["key"])).limits is None
    await change(door, admin, made.json["id"], {"concurrent": 1})
    assert (await door.identity.authenticate_key(made.json["key"])).limits == KeyLimits(concurrent=1)


@pytest.mark.parametrize(
    ("limits", "param"),
    [
        ({"requests_per_minute": 0}, "limits.requests_per_minute"),
        ({"tokens_per_minute": -1}, "limits.tokens_per_minute"),
        ({"concurrent": 10**10}, "limits.concurrent"),
        ({"concurrent": "two"}, "limits.concurrent"),
        ({"concurrent": 1.5}, "limits.concurrent"),
        ({"rpm": 5}, "rpm"),
        ("none", "limits"),
    ],
)
async def test_limits_that_cannot_be(door: Door, limits: object, param: str) -> None:
    admin = await door.log_in()
    made = await make(door, admin)
    for answer in (
        await make(door, admin, limits=limits),
        await change(door, admin, made.json["id"], limits),
    ):
        assert (answer.status, answer.json["error"]["param"]) == (400, param)
    assert (await shown(door, admin))["limits"] == NONE


async def test_a_user_tightens_and_never_loosens_what_an_admin_set(door: Door) -> None:
    await door.add_user("bob")
    admin, bob = await door.log_in(), await door.log_in("bob")
    made = await make(door, bob)
    key_id = made.json["id"]
    assert (await change(door, bob, key_id, {"requests_per_minute": 10})).status == 200
    assert (await change(door, bob, key_id, {"requests_per_minute": 20})).status == 200  # it was his own

    assert (await change(door, admin, key_id, {"requests_per_minute": 15})).status == 200
    for looser in ({"requests_per_minute": 16}, {"requests_per_minute": None}, None):
        answer = await change(door, bob, key_id, looser)
        assert (answer.status, answer.code) == (403, "insufficient_permissions")
        assert "15 requests a minute" in answer.json["error"]["message"]
    tight = await change(door, bob, key_id, {"requests_per_minute": 5, "concurrent": 1})
    assert tight.json["limits"] == {**NONE, "requests_per_minute": 5, "concurrent": 1}
    assert tight.json["ceiling"] == {**NONE, "requests_per_minute": 15}
    again = await change(door, bob, key_id, {"requests_per_minute": 15, "concurrent": None})
    assert again.json["limits"] == {**NONE, "requests_per_minute": 15}
    assert (await change(door, admin, key_id, None)).json["ceiling"] == NONE
    assert (await change(door, bob, key_id, {"requests_per_minute": 99})).status == 200


async def test_a_limited_key_gives_no_looser_limits(door: Door) -> None:
    admin = await door.log_in()
    for scopes in (["inference"], ["admin"]):
        made = await make(door, admin, scopes=scopes, limits={"requests_per_minute": 10})
        key = bearer(made)
        assert (await change(door, key, made.json["id"], None)).status == 403
        assert (await change(door, key, made.json["id"], {"requests_per_minute": 8})).status == 200
        for limits in (None, {"requests_per_minute": 100}):
            child = await make(door, key, limits=limits)
            assert child.json["limits"]["requests_per_minute"] == 8
            assert (await change(door, key, child.json["id"], None)).status in (403, 404)


async def test_nobody_limits_the_keys_of_others(door: Door) -> None:
    await door.add_user("bob")
    made = await make(door, await door.log_in())
    answer = await change(door, await door.log_in("bob"), made.json["id"], {"concurrent": 1})
    assert (answer.status, answer.code) == (404, "not_found")
    assert (await change(door, await door.log_in(), "nobody", {"concurrent": 1})).status == 404
