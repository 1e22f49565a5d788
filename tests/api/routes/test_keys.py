"""API key routes: what a caller may create, see and revoke."""

from __future__ import annotations

import time

import pytest

from llb.base.timestamps import to_iso
from llb.store.tables import keys, users
from llb.wire import Scope
from tests.api.http_server import ApiResponse, ApiServer


async def _make(server: ApiServer, credential: tuple[str, str], **body: object) -> ApiResponse:
    return await server.call("POST", "/api/keys", credential, json_body={"name": "mine", **body})


def _bearer(response: ApiResponse) -> tuple[str, str]:
    assert response.status == 201, response.body
    return ("Authorization", f"Bearer {response.json['key']}")


async def _listed(server: ApiServer, credential: tuple[str, str]) -> set[str]:
    return {key["name"] for key in (await server.call("GET", "/api/keys", credential)).json["keys"]}


async def test_a_new_key_is_shown_once_and_works(server: ApiServer) -> None:
    admin = await server.log_in()
    made = await _make(server, admin, scopes=["inference"], expires_at="2099-01-01T00:00:00Z")
    assert made.json["key"].startswith(made.json["prefix"])
    assert made.json["scopes"] == ["inference"]
    assert made.json["expires_at"] == "2099-01-01T00:00:00.000Z"
    assert (await server.call("GET", "/infer", _bearer(made))).status == 200

    listed = await server.call("GET", "/api/keys", admin)
    [key] = listed.json["keys"]
    assert (key["name"], key["prefix"], key["owner"]) == ("mine", made.json["prefix"], "admin")
    assert made.json["key"].encode() not in listed.body
    stored = await keys.get(server.db, made.json["id"])
    assert made.json["key"] not in repr(stored)
    assert ("admin", "key.create", f"mine ({made.json['prefix']}…)", "ok") in await server.audit_records()


async def test_without_scopes_a_key_may_do_all_that_its_maker_may(server: ApiServer) -> None:
    await server.add_user("bob")
    admins, bobs = await _make(server, await server.log_in()), await _make(server, await server.log_in("bob"))
    assert admins.json["scopes"] == ["admin"]
    assert bobs.json["scopes"] == ["inference", "models:read"]
    assert (await server.call("GET", "/write", _bearer(admins))).status == 200
    assert (await server.call("GET", "/write", _bearer(bobs))).status == 403


async def test_nobody_makes_a_key_that_can_do_more_than_they(server: ApiServer) -> None:
    await server.add_user("bob")
    bob = await server.log_in("bob")
    reader = await server.create_key(Scope.MODELS_READ)
    for credential, scopes in ((bob, ["models:write"]), (bob, ["admin"]), (reader, ["inference"])):
        response = await _make(server, credential, scopes=scopes)
        assert (response.status, response.code) == (403, "insufficient_permissions")
    assert (await _make(server, reader)).json["scopes"] == ["models:read"]


async def test_a_key_made_by_a_key_does_not_outlive_it(server: ApiServer) -> None:
    end = time.time() + 3600
    key = await server.create_key(Scope.ADMIN, expires_at=end)
    for body in ({}, {"expires_at": "2099-01-01T00:00:00Z"}):
        assert (await _make(server, key, **body)).json["expires_at"] == to_iso(end)
    soon = to_iso(end - 1800)
    assert (await _make(server, key, expires_at=soon)).json["expires_at"] == soon


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"scopes": []}, "scopes"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": "2001-01-01"}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-14:00"}, "expires_at"),
    ],
)
async def test_a_key_that_cannot_be(server: ApiServer, body: dict[str, object], param: str) -> None:
    response = await _make(server, await server.log_in(), **body)
    assert (response.status, response.json["error"]["param"]) == (400, param)
    assert await keys.list_keys(server.db) == []


async def test_an_unknown_scope_is_refused(server: ApiServer) -> None:
    assert (await _make(server, await server.log_in(), scopes=["everything"])).status == 400


async def test_everybody_manages_their_own_keys_and_an_admin_all(server: ApiServer) -> None:
    await server.add_user("bob")
    admin, bob = await server.log_in(), await server.log_in("bob")
    admins = await _make(server, admin, name="admins")
    bobs = await _make(server, bob, name="bobs")
    assert await _listed(server, admin) == {"admins", "bobs"}
    assert await _listed(server, bob) == {"bobs"}

    refused = await server.call("DELETE", f"/api/keys/{admins.json['id']}", bob)
    assert (refused.status, refused.code) == (404, "not_found")
    assert (await server.call("GET", "/any", _bearer(admins))).status == 200
    assert (await server.call("DELETE", f"/api/keys/{bobs.json['id']}", bob)).status == 204
    assert (await server.call("GET", "/any", _bearer(bobs))).status == 401
    assert (await server.call("DELETE", f"/api/keys/{bobs.json['id']}", admin)).status == 404


async def test_a_lesser_key_does_not_revoke_its_owners_greater_ones(server: ApiServer) -> None:
    admin = await users.get_by_name(server.db, "admin")
    assert admin is not None
    great = await _make(server, await server.log_in(), name="great")
    lesser = await _make(server, await server.log_in(), name="lesser", scopes=["inference"])
    assert await _listed(server, _bearer(lesser)) == {"lesser"}
    assert (await server.call("DELETE", f"/api/keys/{great.json['id']}", _bearer(lesser))).status == 404
    assert (await server.call("DELETE", f"/api/keys/{lesser.json['id']}", _bearer(lesser))).status == 204


async def test_a_key_of_the_host_without_an_owner_sees_itself_only(server: ApiServer) -> None:
    mine, _ = await server.create_key(Scope.INFERENCE), await server.create_key(Scope.INFERENCE)
    listed = (await server.call("GET", "/api/keys", mine)).json["keys"]
    assert len(listed) == 1
    assert mine[1].startswith(f"Bearer {listed[0]['prefix']}")
