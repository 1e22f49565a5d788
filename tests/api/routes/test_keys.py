"""API keys over HTTP: what one may make, see and revoke."""

from __future__ import annotations

import time

import pytest

from llb.base.timestamps import from_iso, to_iso
from llb.errors import InvalidRequest
from llb.store.tables import keys, users
from llb.wire import Scope
from tests.api.http_server import Answer, Door


async def _make(door: Door, credential: tuple[str, str], **body: object) -> Answer:
    return await door.call("POST", "/api/keys", credential, json_body={"name": "mine", **body})


def _bearer(answer: Answer) -> tuple[str, str]:
    assert answer.status == 201, answer.body
    return ("Authorization", f"Bearer {answer.json['key']}")


async def _listed(door: Door, credential: tuple[str, str]) -> set[str]:
    return {key["name"] for key in (await door.call("GET", "/api/keys", credential)).json["keys"]}


async def test_a_new_key_is_shown_once_and_works(door: Door) -> None:
    admin = await door.log_in()
    made = await _make(door, admin, scopes=["inference"], expires_at="2099-01-01T00:00:00Z")
    assert made.json["key"].startswith(made.json["prefix"])
    assert made.json["scopes"] == ["inference"]
    assert made.json["expires_at"] == "2099-01-01T00:00:00.000Z"
    assert (await door.call("GET", "/infer", _bearer(made))).status == 200

    listed = await door.call("GET", "/api/keys", admin)
    [key] = listed.json["keys"]
    assert (key["name"], key["prefix"], key["owner"]) == ("mine", made.json["prefix"], "admin")
    assert made.json["key"].encode() not in listed.body
    stored = await keys.get(door.db, made.json["id"])
    assert made.json["key"] not in repr(stored)
    assert ("admin", "key.create", f"mine ({made.json['prefix']}…)", "ok") in await door.audited()


async def test_without_scopes_a_key_may_do_all_that_its_maker_may(door: Door) -> None:
    await door.add_user("bob")
    admins, bobs = await _make(door, await door.log_in()), await _make(door, await door.log_in("bob"))
    assert admins.json["scopes"] == ["admin"]
    assert bobs.json["scopes"] == ["inference", "models:read"]
    assert (await door.call("GET", "/write", _bearer(admins))).status == 200
    assert (await door.call("GET", "/write", _bearer(bobs))).status == 403


async def test_nobody_makes_a_key_that_can_do_more_than_they(door: Door) -> None:
    await door.add_user("bob")
    bob = await door.log_in("bob")
    reader = await door.key(Scope.MODELS_READ)
    for credential, scopes in ((bob, ["models:write"]), (bob, ["admin"]), (reader, ["inference"])):
        answer = await _make(door, credential, scopes=scopes)
        assert (answer.status, answer.code) == (403, "insufficient_permissions")
    assert (await _make(door, reader)).json["scopes"] == ["models:read"]


async def test_a_key_made_by_a_key_does_not_outlive_it(door: Door) -> None:
    end = time.time() + 3600
    key = await door.key(Scope.ADMIN, expires_at=end)
    for body in ({}, {"expires_at": "2099-01-01T00:00:00Z"}):
        assert (await _make(door, key, **body)).json["expires_at"] == to_iso(end)
    soon = to_iso(end - 1800)
    assert (await _make(door, key, expires_at=soon)).json["expires_at"] == soon


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
async def test_a_key_that_cannot_be(door: Door, body: dict[str, object], param: str) -> None:
    answer = await _make(door, await door.log_in(), **body)
    assert (answer.status, answer.json["error"]["param"]) == (400, param)
    assert await keys.all_keys(door.db) == []


async def test_an_unknown_scope_is_refused(door: Door) -> None:
    assert (await _make(door, await door.log_in(), scopes=["everything"])).status == 400


async def test_everybody_manages_their_own_keys_and_an_admin_all(door: Door) -> None:
    await door.add_user("bob")
    admin, bob = await door.log_in(), await door.log_in("bob")
    admins = await _make(door, admin, name="admins")
    bobs = await _make(door, bob, name="bobs")
    assert await _listed(door, admin) == {"admins", "bobs"}
    assert await _listed(door, bob) == {"bobs"}

    refused = await door.call("DELETE", f"/api/keys/{admins.json['id']}", bob)
    assert (refused.status, refused.code) == (404, "not_found")
    assert (await door.call("GET", "/any", _bearer(admins))).status == 200
    assert (await door.call("DELETE", f"/api/keys/{bobs.json['id']}", bob)).status == 204
    assert (await door.call("GET", "/any", _bearer(bobs))).status == 401
    assert (await door.call("DELETE", f"/api/keys/{bobs.json['id']}", admin)).status == 404


async def test_a_lesser_key_does_not_revoke_its_owners_greater_ones(door: Door) -> None:
    admin = await users.by_name(door.db, "admin")
    assert admin is not None
    great = await _make(door, await door.log_in(), name="great")
    lesser = await _make(door, await door.log_in(), name="lesser", scopes=["inference"])
    assert await _listed(door, _bearer(lesser)) == {"lesser"}
    assert (await door.call("DELETE", f"/api/keys/{great.json['id']}", _bearer(lesser))).status == 404
    assert (await door.call("DELETE", f"/api/keys/{lesser.json['id']}", _bearer(lesser))).status == 204


async def test_a_key_of_the_host_without_an_owner_sees_itself_only(door: Door) -> None:
    mine, _ = await door.key(Scope.INFERENCE), await door.key(Scope.INFERENCE)
    listed = (await door.call("GET", "/api/keys", mine)).json["keys"]
    assert len(listed) == 1
    assert mine[1].startswith(f"Bearer {listed[0]['prefix']}")


def test_times_at_the_edge() -> None:
    assert to_iso(0.0) == "1970-01-01T00:00:00.000Z"
    assert to_iso(None) is None
    for text in ("2027-01-31T12:00:00Z", "2027-01-31T12:00:00", "2027-01-31T21:00:00+09:00"):
        assert to_iso(from_iso(text, "t")) == "2027-01-31T12:00:00.000Z"
    with pytest.raises(InvalidRequest):
        from_iso("soon", "t")
