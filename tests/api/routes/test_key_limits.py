"""Limits of API keys: who may set them, and which views show them."""

from __future__ import annotations

from typing import Any

import pytest

from llb.store.tables import keys
from llb.wire import KeyLimits
from tests.api.http_server import ApiResponse, ApiServer

NONE = {"requests_per_minute": None, "tokens_per_minute": None, "concurrent": None}


async def make(server: ApiServer, credential: tuple[str, str], **body: object) -> ApiResponse:
    return await server.call("POST", "/api/keys", credential, json_body={"name": "mine", **body})


async def change(server: ApiServer, credential: tuple[str, str], key_id: str, limits: object) -> ApiResponse:
    return await server.call("PATCH", f"/api/keys/{key_id}", credential, json_body={"limits": limits})


def bearer(response: ApiResponse) -> tuple[str, str]:
    assert response.status == 201, response.body
    return ("Authorization", f"Bearer {response.json['key']}")


async def only_key_of(server: ApiServer, credential: tuple[str, str]) -> dict[str, Any]:
    [key] = (await server.call("GET", "/api/keys", credential)).json["keys"]
    return dict(key)


async def test_limits_are_given_at_creation_and_changed_later(server: ApiServer) -> None:
    admin = await server.log_in()
    made = await make(server, admin, limits={"requests_per_minute": 60, "concurrent": 2})
    assert made.json["limits"] == {**NONE, "requests_per_minute": 60, "concurrent": 2}
    assert (await only_key_of(server, admin))["limits"] == made.json["limits"]

    # Omitted limits stay; null removes a limit.
    key_id = made.json["id"]
    changed = await change(server, admin, key_id, {"tokens_per_minute": 5000, "concurrent": None})
    assert changed.json["limits"] == {**NONE, "requests_per_minute": 60, "tokens_per_minute": 5000}
    assert (await only_key_of(server, admin)) == changed.json
    stored = await keys.get(server.db, key_id)
    assert stored is not None
    assert stored.limits == KeyLimits(requests_per_minute=60, tokens_per_minute=5000)
    assert (await change(server, admin, key_id, None)).json["limits"] == NONE
    name = f"mine ({made.json['prefix']}…)"
    assert [act for act in await server.audit_records() if act[1] == "key.limits"] == [
        ("admin", "key.limits", f"{name}: 60 requests a minute, 5000 tokens a minute", "ok"),
        ("admin", "key.limits", f"{name}: no limits", "ok"),
    ]


async def test_without_limits_nothing_is_limited(server: ApiServer) -> None:
    admin = await server.log_in()
    made = await make(server, admin)
    assert made.json["limits"] == NONE
    key = await server.authenticator.authenticate_key(made.json["key"])
    assert key.limits is None


async def test_a_change_counts_at_once(server: ApiServer) -> None:
    admin = await server.log_in()
    made = await make(server, admin)
    assert (await server.authenticator.authenticate_key(made.json["key"])).limits is None
    await change(server, admin, made.json["id"], {"concurrent": 1})
    assert (await server.authenticator.authenticate_key(made.json["key"])).limits == KeyLimits(concurrent=1)


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
async def test_limits_that_cannot_be(server: ApiServer, limits: object, param: str) -> None:
    admin = await server.log_in()
    made = await make(server, admin)
    for response in (
        await make(server, admin, limits=limits),
        await change(server, admin, made.json["id"], limits),
    ):
        assert (response.status, response.json["error"]["param"]) == (400, param)
    assert (await only_key_of(server, admin))["limits"] == NONE


async def test_a_user_tightens_and_never_loosens_what_an_admin_set(server: ApiServer) -> None:
    await server.add_user("bob")
    admin, bob = await server.log_in(), await server.log_in("bob")
    made = await make(server, bob)
    key_id = made.json["id"]
    assert (await change(server, bob, key_id, {"requests_per_minute": 10})).status == 200
    assert (await change(server, bob, key_id, {"requests_per_minute": 20})).status == 200

    assert (await change(server, admin, key_id, {"requests_per_minute": 15})).status == 200
    for looser in ({"requests_per_minute": 16}, {"requests_per_minute": None}, None):
        response = await change(server, bob, key_id, looser)
        assert (response.status, response.code) == (403, "insufficient_permissions")
        assert "15 requests a minute" in response.json["error"]["message"]
    tight = await change(server, bob, key_id, {"requests_per_minute": 5, "concurrent": 1})
    assert tight.json["limits"] == {**NONE, "requests_per_minute": 5, "concurrent": 1}
    assert tight.json["ceiling"] == {**NONE, "requests_per_minute": 15}
    again = await change(server, bob, key_id, {"requests_per_minute": 15, "concurrent": None})
    assert again.json["limits"] == {**NONE, "requests_per_minute": 15}
    assert (await change(server, admin, key_id, None)).json["ceiling"] == NONE
    assert (await change(server, bob, key_id, {"requests_per_minute": 99})).status == 200


async def test_a_limited_key_gives_no_looser_limits(server: ApiServer) -> None:
    admin = await server.log_in()
    for scopes in (["inference"], ["admin"]):
        made = await make(server, admin, scopes=scopes, limits={"requests_per_minute": 10})
        key = bearer(made)
        assert (await change(server, key, made.json["id"], None)).status == 403
        assert (await change(server, key, made.json["id"], {"requests_per_minute": 8})).status == 200
        for limits in (None, {"requests_per_minute": 100}):
            child = await make(server, key, limits=limits)
            if scopes == ["inference"]:
                assert child.status == 403
                continue
            assert child.json["limits"]["requests_per_minute"] == 8
            assert (await change(server, key, child.json["id"], None)).status in (403, 404)


async def test_a_key_is_held_to_the_limits_of_the_keys_that_it_comes_from(server: ApiServer) -> None:
    admin = await server.log_in()
    parent = await make(server, admin, scopes=["admin"])
    child = await make(server, bearer(parent), scopes=["inference"], limits={"concurrent": 3})
    # Limited after it has made the child.
    await change(server, admin, parent.json["id"], {"requests_per_minute": 5, "concurrent": 2})
    principal = await server.authenticator.authenticate_key(child.json["key"])
    assert principal.limits == KeyLimits(requests_per_minute=5, concurrent=2)
    assert [(each.key_id, each.limits.concurrent) for each in principal.allowances] == [
        (child.json["id"], 3),
        (parent.json["id"], 2),
    ]
    assert principal.root_id == parent.json["id"]
    assert (await change(server, bearer(child), child.json["id"], {"concurrent": 3})).status == 403


async def test_nobody_limits_the_keys_of_others(server: ApiServer) -> None:
    await server.add_user("bob")
    made = await make(server, await server.log_in())
    response = await change(server, await server.log_in("bob"), made.json["id"], {"concurrent": 1})
    assert (response.status, response.code) == (404, "not_found")
    assert (await change(server, await server.log_in(), "nobody", {"concurrent": 1})).status == 404
