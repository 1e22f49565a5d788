"""Account routes: sign-in, sessions, users, and the default password."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llb.accounts import service
from llb.errors import SetupError
from llb.security.login_rate_limiter import LoginRateLimiter
from llb.store.tables import users
from llb.wire import Role, Scope
from tests.api.http_server import PASSWORD, ApiResponse, ApiServer, run_api_server

NEW_PASSWORD = "another good one"
# A forwarded request is never a local one.
ELSEWHERE = ("X-Forwarded-For", "203.0.113.9")


@pytest.fixture(autouse=True)
def no_delay_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delay of a second could end between two guesses of a test on a busy machine."""
    monkeypatch.setattr(service, "LoginRateLimiter", partial(LoginRateLimiter, clock=lambda: 0.0))


async def log_in_with(
    server: ApiServer, username: str, password: str, *headers: tuple[str, str]
) -> ApiResponse:
    return await server.call(
        "POST", "/api/auth/login", *headers, json_body={"username": username, "password": password}
    )


async def _user_id(server: ApiServer, username: str) -> str:
    user = await users.get_by_name(server.db, username)
    assert user is not None
    return user.id


async def test_login_gives_the_user_and_a_cookie_that_only_http_sees(server: ApiServer) -> None:
    response = await log_in_with(server, "admin", PASSWORD)
    assert response.status == 200
    assert response.json["user"] == {
        "id": await _user_id(server, "admin"),
        "username": "admin",
        "role": "admin",
        "must_change_password": False,
        "created_at": response.json["user"]["created_at"],
    }
    assert response.json["expires_at"].endswith("Z")
    cookies = response.header_values("set-cookie")
    assert [cookie.partition("=")[0] for cookie in cookies] == ["llb_session", "llb_device"]
    for cookie in cookies:
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
        # Over plain HTTP a browser would never send a Secure cookie back.
        assert "Secure" not in cookie
    assert PASSWORD.encode() not in response.body

    me = await server.call("GET", "/api/auth/me", ("Cookie", response.cookie))
    assert me.json["user"]["username"] == "admin"
    assert me.json["kind"] == "session"
    assert set(me.json["scopes"]) == {scope.value for scope in Scope}


@pytest.mark.parametrize(
    ("username", "password"),
    [("admin", "wrong"), ("nobody", PASSWORD), ("admin", ""), ("x" * 5000, PASSWORD), ("admin", "x" * 5000)],
)
async def test_a_wrong_name_and_a_wrong_password_sound_the_same(
    server: ApiServer, username: str, password: str
) -> None:
    response = await log_in_with(server, username, password)
    assert (response.status, response.code) == (401, "invalid_credentials")
    assert response.json["error"]["message"] == "The user name or the password is wrong"
    assert response.header_values("set-cookie") == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "invalid_json"),
        (b'{"username": "admin"}', "invalid_request"),
        (b'{"username": 1, "password": "x"}', "invalid_request"),
        (b'{"username": "\\ud800", "password": "\\ud800"}', "invalid_json"),
    ],
)
async def test_a_login_that_is_none(server: ApiServer, body: bytes, code: str) -> None:
    response = await server.call("POST", "/api/auth/login", ("Content-Type", "application/json"), body=body)
    assert (response.status, response.code) == (400, code)


async def test_logout_ends_the_session_at_once_and_only_that(server: ApiServer) -> None:
    one, two = await server.log_in(), await server.log_in()
    response = await server.call("POST", "/api/auth/logout", one)
    assert response.status == 204
    assert "max-age=0" in str(response.header("set-cookie")).lower()
    assert (await server.call("GET", "/any", one)).status == 401
    assert (await server.call("GET", "/any", two)).status == 200


async def test_login_ends_the_session_it_replaces(server: ApiServer) -> None:
    first = await server.log_in()
    response = await log_in_with(server, "admin", PASSWORD, first)
    assert response.cookie != first[1]
    assert (await server.call("GET", "/any", first)).status == 401
    assert (await server.call("GET", "/any", ("Cookie", response.cookie))).status == 200


async def test_a_session_outlives_a_restart(tmp_path: Path) -> None:
    async with run_api_server(tmp_path, admin_password=PASSWORD) as server:
        session = await server.log_in()
    async with run_api_server(tmp_path) as server:
        assert (await server.call("GET", "/any", session)).status == 200


async def test_guessing_is_slowed_down(server: ApiServer) -> None:
    statuses = [(await log_in_with(server, "admin", f"wrong {number}")).status for number in range(8)]
    assert statuses[:5] == [401] * 5
    refused = await log_in_with(server, "admin", PASSWORD)
    assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
    assert int(str(refused.header("retry-after"))) >= 1


async def test_guesses_at_the_same_time_are_counted_too(server: ApiServer) -> None:
    answers = await asyncio.gather(*(log_in_with(server, "admin", f"wrong {number}") for number in range(20)))
    assert [response.status for response in answers].count(401) == LoginRateLimiter.FREE_ATTEMPTS


async def _change(server: ApiServer, session: tuple[str, str], current: str, new: str) -> ApiResponse:
    return await server.call(
        "POST", "/api/auth/password", session, json_body={"current_password": current, "new_password": new}
    )


async def test_a_new_password_ends_every_other_session(server: ApiServer) -> None:
    mine, other = await server.log_in(), await server.log_in()
    response = await _change(server, mine, PASSWORD, NEW_PASSWORD)
    assert response.status == 200
    fresh = ("Cookie", response.cookie)
    assert (await server.call("GET", "/any", fresh)).status == 200
    for old in (mine, other):
        assert (await server.call("GET", "/any", old)).status == 401
    assert (await log_in_with(server, "admin", PASSWORD)).status == 401
    assert (await log_in_with(server, "admin", NEW_PASSWORD)).status == 200


@pytest.mark.parametrize(
    ("current", "new", "status"),
    [("wrong", NEW_PASSWORD, 401), (PASSWORD, "short", 400), (PASSWORD, "test", 400), (PASSWORD, "", 400)],
)
async def test_a_password_that_may_not_be(server: ApiServer, current: str, new: str, status: int) -> None:
    session = await server.log_in()
    assert (await _change(server, session, current, new)).status == status
    assert (await server.call("GET", "/any", session)).status == 200
    assert (await log_in_with(server, "admin", PASSWORD)).status == 200


async def test_a_key_changes_no_password(server: ApiServer) -> None:
    key = await server.create_key(Scope.ADMIN, owner_id=await _user_id(server, "admin"))
    assert (await _change(server, key, PASSWORD, NEW_PASSWORD)).status == 403


async def test_the_first_password_counts_at_the_first_start_only(tmp_path: Path) -> None:
    async with run_api_server(tmp_path, admin_password=PASSWORD) as server:
        assert not await users.is_default_password_in_use(server.db)
    async with run_api_server(tmp_path, admin_password=NEW_PASSWORD) as server:
        assert (await log_in_with(server, "admin", NEW_PASSWORD)).status == 401
        assert (await log_in_with(server, "admin", PASSWORD)).status == 200
        assert len(await users.list_users(server.db)) == 1


async def test_a_password_given_later_takes_the_place_of_the_default_one(tmp_path: Path) -> None:
    async with run_api_server(tmp_path) as server:
        session = ("Cookie", (await log_in_with(server, "admin", "test")).cookie)
    with pytest.raises(SetupError, match="LLB_ADMIN_PASSWORD"):
        async with run_api_server(tmp_path, admin_password="short"):
            pass
    async with run_api_server(tmp_path, admin_password=NEW_PASSWORD) as server:
        assert not await users.is_default_password_in_use(server.db)
        assert (await log_in_with(server, "admin", "test")).status == 401
        assert (await log_in_with(server, "admin", NEW_PASSWORD, ELSEWHERE)).status == 200
        assert (await server.call("GET", "/any", session)).status == 401


async def test_a_bad_first_password_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"LLB_ADMIN_PASSWORD: .*at least 8") as caught:
        async with run_api_server(tmp_path, admin_password="short"):
            pass
    assert "short" not in str(caught.value)


@pytest.mark.parametrize("given", [{}, {"admin_password": "test"}])
async def test_the_default_password_works_on_the_host_only(tmp_path: Path, given: dict[str, Any]) -> None:
    async with run_api_server(tmp_path, **given) as server:
        login = await log_in_with(server, "admin", "test")
        assert login.status == 200
        assert login.json["user"]["must_change_password"] is True
        session = ("Cookie", login.cookie)
        assert (await server.call("GET", "/any", session)).status == 200

        for far in ([ELSEWHERE], [("Via", "1.1 proxy")]):
            refused = await log_in_with(server, "admin", "test", *far)
            assert (refused.status, refused.code) == (403, "insufficient_permissions")
            assert refused.header_values("set-cookie") == []
            assert (await server.call("GET", "/any", session, *far)).status == 403
        refused = await server.call("GET", "/any", session, host="192.168.1.5")
        assert refused.status == 403

        new = {"username": "bob", "password": PASSWORD}
        local = ("Authorization", f"Bearer {server.local_token}")
        for credential in (session, local):
            assert (await server.call("POST", "/api/users", credential, json_body=new)).status == 403
        made = await server.call("POST", "/api/keys", session, json_body={"name": "seed"})
        assert made.status == 201

        changed = await _change(server, session, "test", PASSWORD)
        assert changed.json["user"]["must_change_password"] is False
        assert (await log_in_with(server, "admin", PASSWORD, ELSEWHERE)).status == 200
        session = ("Cookie", changed.cookie)
        assert (await server.call("GET", "/any", session, ELSEWHERE)).status == 200
        assert (await server.call("POST", "/api/users", session, json_body=new)).status == 201


async def test_an_admin_makes_changes_and_removes_users(server: ApiServer) -> None:
    admin = await server.log_in()
    made = await server.call(
        "POST", "/api/users", admin, json_body={"username": "ベティ", "password": PASSWORD}
    )
    assert made.status == 201
    assert made.json["role"] == "user"
    assert "password" not in made.json
    betty = await server.log_in("ベティ")

    path = f"/api/users/{made.json['id']}"
    assert (await server.call("GET", "/write", betty)).status == 403
    promoted = await server.call("PATCH", path, admin, json_body={"role": "admin"})
    assert promoted.json["role"] == "admin"
    assert (await server.call("GET", "/write", betty)).status == 200

    assert (await server.call("PATCH", path, admin, json_body={"password": NEW_PASSWORD})).status == 200
    assert (await server.call("GET", "/any", betty)).status == 401
    betty = ("Cookie", (await log_in_with(server, "ベティ", NEW_PASSWORD)).cookie)

    listed = (await server.call("GET", "/api/users", admin)).json["users"]
    assert [user["username"] for user in listed] == ["admin", "ベティ"]
    assert "hash" not in str(listed)

    assert (await server.call("DELETE", path, admin)).status == 204
    assert (await server.call("GET", "/any", betty)).status == 401
    assert (await server.call("DELETE", path, admin)).status == 404
    assert (await server.call("PATCH", path, admin, json_body={"role": "user"})).status == 404
    assert (await server.call("PATCH", path, admin, json_body={})).status == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"username": "ADMIN", "password": PASSWORD}, 409),
        ({"username": "", "password": PASSWORD}, 400),
        ({"username": " bob", "password": PASSWORD}, 400),
        ({"username": "b\nob", "password": PASSWORD}, 400),
        ({"username": "x" * 65, "password": PASSWORD}, 400),
        ({"username": "bob", "password": "short"}, 400),
        ({"username": "bob", "password": PASSWORD, "role": "king"}, 400),
    ],
)
async def test_a_user_that_cannot_be(server: ApiServer, body: dict[str, str], status: int) -> None:
    assert (await server.call("POST", "/api/users", await server.log_in(), json_body=body)).status == status
    assert len(await users.list_users(server.db)) == 1


async def test_the_last_admin_stays(server: ApiServer) -> None:
    admin = await server.log_in()
    path = f"/api/users/{await _user_id(server, 'admin')}"
    for response in (
        await server.call("DELETE", path, admin),
        await server.call("PATCH", path, admin, json_body={"role": "user"}),
    ):
        assert (response.status, response.code) == (409, "conflict")
    assert (await server.call("GET", "/api/users", admin)).status == 200


async def test_an_open_session_is_not_enough_to_take_over_its_account(server: ApiServer) -> None:
    path = f"/api/users/{await _user_id(server, 'admin')}"
    response = await server.call("PATCH", path, await server.log_in(), json_body={"password": NEW_PASSWORD})
    assert response.status == 403
    assert (await log_in_with(server, "admin", PASSWORD)).status == 200


async def test_a_user_sees_neither_users_nor_the_audit_trail(server: ApiServer) -> None:
    await server.add_user("bob")
    bob = await server.log_in("bob")
    for method, path in (
        ("GET", "/api/users"),
        ("POST", "/api/users"),
        ("DELETE", "/api/users/x"),
        ("PATCH", "/api/users/x"),
        ("GET", "/api/audit"),
    ):
        assert (await server.call(method, path, bob)).status == 403
    assert (await server.call("GET", "/infer", bob)).status == 200
    me = (await server.call("GET", "/api/auth/me", bob)).json
    assert set(me["scopes"]) == {"inference", "models:read"}


async def test_a_demoted_owners_key_can_do_less_at_once(server: ApiServer) -> None:
    await server.add_user("bob", Role.ADMIN)
    bob_id = await _user_id(server, "bob")
    key = await server.create_key(Scope.ADMIN, owner_id=bob_id)
    assert (await server.call("GET", "/write", key)).status == 200
    admin = await server.log_in()
    await server.call("PATCH", f"/api/users/{bob_id}", admin, json_body={"role": "user"})
    assert (await server.call("GET", "/write", key)).status == 403
    assert (await server.call("GET", "/infer", key)).status == 200
    await server.call("DELETE", f"/api/users/{bob_id}", admin)
    assert (await server.call("GET", "/infer", key)).status == 401


async def test_every_act_is_noted_with_who_from_where_and_how_it_ended(server: ApiServer) -> None:
    await log_in_with(server, "admin", "wrong")
    await log_in_with(server, "my-password-by-mistake", "x")
    admin = await server.log_in()
    made = await server.call("POST", "/api/users", admin, json_body={"username": "bob", "password": PASSWORD})
    await server.call("DELETE", f"/api/users/{made.json['id']}", admin)
    await server.call("POST", "/api/auth/logout", admin)
    assert await server.audit_records() == [
        ("system", "user.create", "admin", "ok"),
        ("admin", "login", None, "invalid_credentials"),
        ("unknown", "login", None, "invalid_credentials"),
        ("admin", "login", None, "ok"),
        ("admin", "user.create", "bob", "ok"),
        ("admin", "user.delete", "bob", "ok"),
        ("admin", "logout", None, "ok"),
    ]


# --- the first password ------------------------------------------------------------------------------


async def set_up(server: ApiServer, token: str, password: str, *headers: tuple[str, str]) -> ApiResponse:
    return await server.call(
        "POST", "/api/auth/setup", *headers, json_body={"token": token, "new_password": password}
    )


async def test_the_setup_token_chooses_the_first_password_from_anywhere_and_once(tmp_path: Path) -> None:
    async with run_api_server(tmp_path) as server:
        token = server.account_service.setup_token.issue()
        session = ("Cookie", (await log_in_with(server, "admin", "test")).cookie)
        state = await server.call("GET", "/api/auth/setup", ELSEWHERE)
        assert state.json["default_password"] is True
        assert "x-forwarded-for" in state.json["refused_because"]

        for wrong in ("", "x" * 43, token[:-1], token + "x"):
            assert (await set_up(server, wrong, NEW_PASSWORD, ELSEWHERE)).status == 401
        # A password that is refused does not use the token up.
        assert (await set_up(server, token, "short", ELSEWHERE)).status == 400
        assert (await set_up(server, token, "test", ELSEWHERE)).status == 400
        answers = await asyncio.gather(
            *(set_up(server, token, f"{NEW_PASSWORD} {number}", ELSEWHERE) for number in range(4))
        )
        assert sorted(answer.status for answer in answers) == [200, 401, 401, 401]
        [fresh] = [("Cookie", answer.cookie) for answer in answers if answer.status == 200]
        assert (await server.call("GET", "/any", fresh, ELSEWHERE)).status == 200
        assert (await server.call("GET", "/any", session)).status == 401
        assert (await log_in_with(server, "admin", "test")).status == 401
        state = await server.call("GET", "/api/auth/setup", ELSEWHERE)
        assert state.json == {
            "default_password": False,
            "refused_because": None,
            "refused_because_code": None,
        }


async def test_a_setup_token_ends_with_the_default_password_with_the_process_and_with_time(
    tmp_path: Path,
) -> None:
    async with run_api_server(tmp_path) as server:
        first = server.account_service.setup_token.issue()
        old = server.account_service.setup_token.issue()
        assert (await set_up(server, first, NEW_PASSWORD)).status == 401
    async with run_api_server(tmp_path) as server:
        assert (await set_up(server, old, NEW_PASSWORD)).status == 401
        token = server.account_service.setup_token.issue()
        server.account_service.setup_token._expires_at = 0.0
        assert (await set_up(server, token, NEW_PASSWORD)).status == 401
        token = server.account_service.setup_token.issue()
        # As 'llb password' does it, in another process.
        user_id = await _user_id(server, "admin")
        async with server.db.write() as tx:
            await users.set_password(tx, user_id, "x")
        assert (await set_up(server, token, NEW_PASSWORD)).status == 401


def change_by_the_user(server: ApiServer, session: tuple[str, str]) -> Awaitable[ApiResponse]:
    return _change(server, session, "test", NEW_PASSWORD)


async def change_by_the_host(server: ApiServer, _session: tuple[str, str]) -> ApiResponse:
    local = ("Authorization", f"Bearer {server.local_token}")
    path = f"/api/users/{await _user_id(server, 'admin')}"
    return await server.call("PATCH", path, local, json_body={"password": NEW_PASSWORD})


def change_by_the_link(server: ApiServer, _session: tuple[str, str]) -> Awaitable[ApiResponse]:
    return set_up(server, server.account_service.setup_token.issue(), NEW_PASSWORD, ELSEWHERE)


@pytest.mark.parametrize("change", [change_by_the_user, change_by_the_host, change_by_the_link])
async def test_keys_and_sessions_made_under_the_default_password_end_with_it(
    tmp_path: Path, change: Callable[[ApiServer, tuple[str, str]], Awaitable[ApiResponse]]
) -> None:
    async with run_api_server(tmp_path) as server:
        session = ("Cookie", (await log_in_with(server, "admin", "test")).cookie)
        made = await server.call(
            "POST", "/api/keys", session, json_body={"name": "remote", "scopes": ["admin"]}
        )
        key = ("Authorization", f"Bearer {made.json['key']}")
        made_by_key = await server.call(
            "POST", "/api/keys", key, json_body={"name": "child", "scopes": ["admin"]}
        )
        child = ("Authorization", f"Bearer {made_by_key.json['key']}")
        # As 'llb keys create' does it: who may do that has access to the files of llb.
        own = await server.create_key(Scope.ADMIN)
        for credential in (key, child, own):
            assert (await server.call("GET", "/write", credential)).status == 200

        changed = await change(server, session)
        assert changed.status == 200
        assert sorted(name.partition(" ")[0] for name in changed.json["ended_keys"]) == ["child", "remote"]
        for credential in (session, key, child):
            assert (await server.call("GET", "/write", credential)).status == 401
        assert (await server.call("GET", "/write", own)).status == 200
        ended = [record for record in await server.audit_records() if record[1] == "key.delete"]
        assert [(record[2] or "").partition(" ")[0] for record in ended] == ["remote", "child"]
        assert {record[3] for record in ended} == {"default password"}

        # Keys that were made under a real password outlive the next one.
        fresh = await server.log_in(password=NEW_PASSWORD)
        made = await server.call("POST", "/api/keys", fresh, json_body={"name": "later", "scopes": ["admin"]})
        again = await _change(server, fresh, NEW_PASSWORD, PASSWORD)
        assert again.json["ended_keys"] == []
        later = ("Authorization", f"Bearer {made.json['key']}")
        assert (await server.call("GET", "/write", later)).status == 200


async def test_a_password_given_at_a_later_start_ends_the_keys_of_the_default_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with run_api_server(tmp_path) as server:
        session = ("Cookie", (await log_in_with(server, "admin", "test")).cookie)
        made = await server.call(
            "POST", "/api/keys", session, json_body={"name": "remote", "scopes": ["admin"]}
        )
    async with run_api_server(tmp_path, admin_password=NEW_PASSWORD) as server:
        key = ("Authorization", f"Bearer {made.json['key']}")
        assert (await server.call("GET", "/any", key)).status == 401
    assert "made under the default password have ended: remote (sk-" in caplog.text


# --- guesses, and the owner --------------------------------------------------------------------------

OWNER = ("X-Forwarded-For", "198.51.100.1")


def guesser(number: int) -> tuple[str, str]:
    return ("X-Forwarded-For", f"203.0.113.{number}")


async def guess_until_refused(server: ApiServer, username: str = "admin") -> None:
    """Guess from many addresses until the account is delayed, and on."""
    statuses = [
        (await log_in_with(server, username, f"wrong {number}", guesser(number))).status
        for number in range(LoginRateLimiter.FREE_ATTEMPTS + 5)
    ]
    assert statuses == [401] * LoginRateLimiter.FREE_ATTEMPTS + [429] * 5


async def test_guesses_from_elsewhere_do_not_lock_the_owner_out(tmp_path: Path) -> None:
    proxied = {"admin_password": PASSWORD, "trusted_proxies": ("127.0.0.1",)}
    async with run_api_server(tmp_path, **proxied) as server:
        first = await log_in_with(server, "admin", PASSWORD, OWNER)
        device = first.device_cookie
        assert device is not None
        session = ("Cookie", first.cookie)
    # A restart forgets neither the device nor the address.
    async with run_api_server(tmp_path, **proxied) as server:
        await guess_until_refused(server)
        assert (await log_in_with(server, "admin", PASSWORD, guesser(200))).status == 429
        # From the same address without the cookie, from elsewhere with it, and signed in already.
        assert (await log_in_with(server, "admin", PASSWORD, OWNER)).status == 200
        known = await log_in_with(server, "admin", PASSWORD, guesser(200), ("Cookie", device))
        assert known.status == 200
        assert known.device_cookie is None
        assert (await _change(server, session, PASSWORD, NEW_PASSWORD)).status == 200
        # All sessions have ended, and the known addresses are forgotten.
        again = await log_in_with(server, "admin", NEW_PASSWORD, guesser(200), ("Cookie", device))
        assert again.status == 200


async def test_a_device_cookie_is_of_one_account_and_may_not_guess_without_end(tmp_path: Path) -> None:
    async with run_api_server(tmp_path, admin_password=PASSWORD, trusted_proxies=("127.0.0.1",)) as server:
        await server.add_user("bob")
        bobs = (await log_in_with(server, "bob", PASSWORD, guesser(100))).device_cookie
        admins = (await log_in_with(server, "admin", PASSWORD, OWNER)).device_cookie
        assert bobs is not None
        assert admins is not None
        await guess_until_refused(server)
        for number, cookie in enumerate((bobs, admins[:-1], admins + "0", "llb_device=", "llb_device=x.y")):
            refused = await log_in_with(server, "admin", PASSWORD, guesser(150 + number), ("Cookie", cookie))
            assert refused.status == 429, cookie
        own = [
            (await log_in_with(server, "admin", "wrong", guesser(160 + number), ("Cookie", admins))).status
            for number in range(LoginRateLimiter.FREE_ATTEMPTS + 1)
        ]
        assert own == [401] * LoginRateLimiter.FREE_ATTEMPTS + [429]
        # It used up its own allowance only.
        assert (await log_in_with(server, "admin", PASSWORD, OWNER)).status == 200


async def test_a_name_without_an_account_is_delayed_like_one_that_has_one(tmp_path: Path) -> None:
    async with run_api_server(tmp_path, admin_password=PASSWORD, trusted_proxies=("127.0.0.1",)) as server:
        await guess_until_refused(server, "nobody")


async def test_made_up_names_do_not_make_the_limiter_forget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LoginRateLimiter, "MAX_RECORDS", 20)
    async with run_api_server(tmp_path, admin_password=PASSWORD, trusted_proxies=("127.0.0.1",)) as server:
        await guess_until_refused(server)
        for number in range(50):
            await log_in_with(server, f"made up {number}", "x", guesser(100))
        for number in (0, 1, 200):
            assert (await log_in_with(server, "admin", "wrong", guesser(number))).status == 429
        assert (await log_in_with(server, "bob", "wrong", guesser(100))).status == 429
