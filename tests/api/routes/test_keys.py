"""API key routes: what a caller may create, see and revoke."""

from __future__ import annotations

import time

import pytest

from llb.accounts.write_limiter import WRITES_PER_MINUTE
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


async def test_without_scopes_a_key_infers_and_reads(server: ApiServer) -> None:
    await server.add_user("bob")
    for name in ("admin", "bob"):
        made = await _make(server, await server.log_in(name))
        assert made.json["scopes"] == ["inference", "models:read"]
        assert (await server.call("GET", "/infer", _bearer(made))).status == 200
        assert (await server.call("GET", "/write", _bearer(made))).status == 403


async def test_nobody_makes_a_key_that_can_do_more_than_they(server: ApiServer) -> None:
    await server.add_user("bob")
    bob = await server.log_in("bob")
    for scopes in (["models:write"], ["admin"], ["inference", "admin"]):
        response = await _make(server, bob, scopes=scopes)
        assert (response.status, response.code) == (403, "insufficient_permissions")


async def test_only_sessions_and_admin_keys_make_keys(server: ApiServer) -> None:
    await server.add_user("bob")
    user = await users.get_by_name(server.db, "bob")
    assert user is not None
    lesser = [
        await server.create_key(Scope.INFERENCE),
        await server.create_key(Scope.INFERENCE, Scope.MODELS_READ, Scope.MODELS_WRITE),
        # The scope does not help where the owner has no such role.
        await server.create_key(Scope.ADMIN, owner_id=user.id),
    ]
    for credential in lesser:
        response = await _make(server, credential, scopes=["inference"])
        assert (response.status, response.code) == (403, "insufficient_permissions")
        assert "sign in" in response.json["error"]["message"]
    assert len(await keys.list_keys(server.db)) == len(lesser)
    assert (await _make(server, await server.log_in("bob"))).status == 201
    assert (await _make(server, await server.create_key(Scope.ADMIN))).status == 201


async def test_what_a_key_made_ends_with_it(server: ApiServer) -> None:
    admin = await server.log_in()
    for parent in (await _make(server, admin, name="parent", scopes=["admin"]), None):
        maker = await server.create_key(Scope.ADMIN) if parent is None else _bearer(parent)
        child = await _make(server, maker, name="child", scopes=["admin"])
        grandchild = await _make(server, _bearer(child), name="grandchild", scopes=["inference"])
        sibling = await _make(server, admin, name="sibling")
        listed = {key["name"]: key for key in (await server.call("GET", "/api/keys", admin)).json["keys"]}
        assert listed["grandchild"]["parent_id"] == child.json["id"]
        parent_id = listed["child"]["parent_id"]
        assert (await server.call("GET", "/infer", _bearer(grandchild))).status == 200
        assert (await server.call("DELETE", f"/api/keys/{parent_id}", admin)).status == 204
        for gone in (child, grandchild):
            response = await server.call("GET", "/infer", _bearer(gone))
            assert (response.status, response.code) == (401, "invalid_api_key")
        assert (await server.call("GET", "/infer", _bearer(sibling))).status == 200
        last = (await server.audit_records())[-1]
        assert last[1] == "key.delete"
        assert str(last[2]).endswith("and 2 made with it")
        assert (await server.call("DELETE", f"/api/keys/{sibling.json['id']}", admin)).status == 204


async def test_what_a_key_made_expires_with_it_whatever_is_stored(server: ApiServer) -> None:
    parent = await server.create_key(Scope.ADMIN)
    child = await _make(server, parent, scopes=["inference"])
    assert (await server.call("GET", "/infer", _bearer(child))).status == 200
    async with server.db.write() as tx:
        await tx.execute("UPDATE api_keys SET expires_at = ? WHERE parent_id IS NULL", (time.time() - 1,))
    server.authenticator.clear_cache()
    assert (await server.call("GET", "/infer", _bearer(child))).status == 401


async def test_keys_do_not_make_keys_without_end(server: ApiServer) -> None:
    maker = await server.create_key(Scope.ADMIN)
    for _ in range(keys.MAX_GENERATIONS):
        maker = _bearer(await _make(server, maker, scopes=["admin"]))
    assert (await server.call("GET", "/infer", maker)).status == 200
    assert (await _make(server, maker)).status == 403


@pytest.mark.parametrize("is_key", [False, True])
async def test_an_owner_has_a_bounded_number_of_keys(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch, *, is_key: bool
) -> None:
    monkeypatch.setattr("llb.accounts.key_service.MAX_KEYS_OF_USER", 3)
    monkeypatch.setattr("llb.accounts.key_service.MAX_KEYS_OF_ADMIN", 3)
    await server.add_user("bob")
    owner = await server.create_key(Scope.ADMIN) if is_key else await server.log_in("bob")
    made = [await _make(server, owner) for _ in range(3)]
    full = await _make(server, owner)
    assert (full.status, full.code) == (409, "key_limit_reached")
    assert full.json["error"]["max_keys"] == 3
    # Others have their own number.
    assert (await _make(server, await server.log_in())).status == 201
    assert (await server.call("DELETE", f"/api/keys/{made[0].json['id']}", owner)).status == 204
    assert (await _make(server, owner)).status == 201


async def test_expired_keys_make_room(server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llb.accounts.key_service.MAX_KEYS_OF_USER", 2)
    await server.add_user("bob")
    user = await users.get_by_name(server.db, "bob")
    assert user is not None
    for expires_at in (time.time() - 1, None):
        await server.create_key(Scope.INFERENCE, owner_id=user.id, expires_at=expires_at)
    bob = await server.log_in("bob")
    assert (await _make(server, bob)).status == 201
    assert len(await keys.list_keys(server.db)) == 2
    assert (await _make(server, bob)).code == "key_limit_reached"


async def test_changes_have_a_pace_of_their_own(server: ApiServer) -> None:
    await server.add_user("bob")
    bob = await server.log_in("bob")
    made = await _make(server, bob)
    key_id = made.json["id"]
    statuses = [
        (await server.call("PATCH", f"/api/keys/{key_id}", _bearer(made), json_body={"limits": None})).status
        for _ in range(WRITES_PER_MINUTE + 60)
    ]
    assert statuses[:WRITES_PER_MINUTE] == [200] * WRITES_PER_MINUTE
    assert 429 in statuses
    refused = await server.call("DELETE", "/api/keys/none", _bearer(made))
    while refused.status != 429:
        refused = await server.call("DELETE", "/api/keys/none", _bearer(made))
    assert refused.code == "rate_limit_exceeded"
    assert refused.header("retry-after") == "1"
    # Neither its reads and inference requests nor its owner are slowed down.
    assert (await server.call("GET", "/infer", _bearer(made))).status == 200
    assert (await server.call("POST", "/infer", _bearer(made), json_body={})).status == 200
    assert (await server.call("GET", "/api/keys", _bearer(made))).status == 200
    assert (await _make(server, bob)).status == 201
    await server.log_in("bob")


async def test_the_list_is_paged_in_both_orders(server: ApiServer) -> None:
    await server.add_user("bob")
    admin, bob = await server.log_in(), await server.log_in("bob")
    for number in range(5):
        await _make(server, bob if number % 2 else admin, name=f"k{number}")
    for order, names in (
        ("oldest", ["k0", "k1", "k2", "k3", "k4"]),
        ("newest", ["k4", "k3", "k2", "k1", "k0"]),
    ):
        for reader, expected in ((admin, names), (bob, [name for name in names if name in ("k1", "k3")])):
            found: list[str] = []
            cursor = ""
            while True:
                page = (await server.call("GET", f"/api/keys?limit=2&order={order}{cursor}", reader)).json
                assert len(page["keys"]) <= 2
                found += [key["name"] for key in page["keys"]]
                if page["next_cursor"] is None:
                    break
                cursor = f"&after={page['next_cursor']}"
            assert found == expected
    assert (await server.call("GET", "/api/keys", admin)).json["next_cursor"] is None
    for wrong in ("limit=0", "limit=1001", "order=random", "after=x"):
        assert (await server.call("GET", f"/api/keys?{wrong}", admin)).status == 400


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
    other = await _make(server, await server.log_in(), name="other", scopes=["inference"])
    assert await _listed(server, _bearer(lesser)) == {"lesser", "other"}
    # Nor those with the same rights: another person may hold it.
    assert (await server.call("DELETE", f"/api/keys/{other.json['id']}", _bearer(lesser))).status == 404
    limits = {"limits": {"requests_per_minute": 1}}
    response = await server.call("PATCH", f"/api/keys/{other.json['id']}", _bearer(lesser), json_body=limits)
    assert response.status == 404
    assert (await server.call("DELETE", f"/api/keys/{great.json['id']}", _bearer(lesser))).status == 404
    assert (await server.call("DELETE", f"/api/keys/{lesser.json['id']}", _bearer(lesser))).status == 204


async def test_a_key_of_the_host_without_an_owner_sees_itself_only(server: ApiServer) -> None:
    mine, _ = await server.create_key(Scope.INFERENCE), await server.create_key(Scope.INFERENCE)
    listed = (await server.call("GET", "/api/keys", mine)).json["keys"]
    assert len(listed) == 1
    assert mine[1].startswith(f"Bearer {listed[0]['prefix']}")
