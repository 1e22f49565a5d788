"""Commands for keys, users and passwords, with and without a running server."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import Any

import httpx
import pytest

from tests.cli.conftest import CommandHost
from tests.harness import PASSWORD

NEW_PASSWORD = "a new good password"


def sign_in(host: CommandHost, username: str, password: str) -> int:
    body = {"username": username, "password": password}
    return httpx.post(f"{host.url}/api/auth/login", json=body, trust_env=False, timeout=60).status_code


def use(host: CommandHost, key: str, path: str = "/api/models") -> int:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.get(f"{host.url}{path}", headers=headers, trust_env=False, timeout=60).status_code


def audit(host: CommandHost, key: str) -> list[tuple[str, str, str | None]]:
    headers = {"Authorization": f"Bearer {key}"}
    entries = httpx.get(f"{host.url}/api/audit", headers=headers, trust_env=False, timeout=60).json()[
        "entries"
    ]
    return [(entry["actor"], entry["action"], entry["target"]) for entry in entries]


# --- keys --------------------------------------------------------------------------------------------


def test_a_key_is_printed_alone_and_works(host: CommandHost) -> None:
    done = host.run_command("keys", "create", "laptop", "--scope", "admin")
    assert re.fullmatch(r"sk-[0-9a-f]{48}\n", done.stdout)
    assert done.stderr == ""
    key = done.stdout.strip()
    host.start_server()
    assert use(host, key, "/api/audit") == 200
    assert ("local", "key.create", f"laptop ({key[:10]}…)") in audit(host, key)


def test_a_key_created_before_the_first_start_does_not_create_the_first_admin(host: CommandHost) -> None:
    host.run_command("keys", "create", "laptop")
    host.env["LLB_ADMIN_PASSWORD"] = PASSWORD
    host.start_server()
    assert sign_in(host, "admin", PASSWORD) == 200


def test_scopes_and_expiry(host: CommandHost) -> None:
    host.run_command(
        "keys", "create", "a", "--scope", "inference", "--scope", "models:read", "--expires", "30d"
    )
    host.run_command("keys", "create", "b", "--expires", "2099-01-31T12:00:00Z")
    host.run_command("keys", "create", "c")
    a, b, c = host.run_json_command("keys", "list")["keys"]
    assert sorted(a["scopes"]) == ["inference", "models:read"]
    assert sorted(b["scopes"]) == sorted(c["scopes"]) == ["inference", "models:read"]
    days = (datetime.fromisoformat(a["expires_at"]).timestamp() - time.time()) / 86_400
    assert days == pytest.approx(30, abs=0.1)
    assert b["expires_at"] == "2099-01-31T12:00:00.000Z"
    assert c["expires_at"] is None
    assert all("key" not in key and "hash" not in key for key in (a, b, c))


@pytest.mark.parametrize("when", ["soon", "0", "-1", "2001-01-01", "9999999999999d", "99999-01-01"])
def test_an_invalid_expiry(host: CommandHost, when: str) -> None:
    assert "xpires" in host.run_failing_command("keys", "create", "x", f"--expires={when}")


def test_limits_are_given_shown_and_changed(host: CommandHost) -> None:
    host.run_command("keys", "create", "laptop", "--scope", "inference", "--rpm", "60", "--concurrent", "2")
    [key] = host.run_json_command("keys", "list")["keys"]
    assert key["limits"] == {"requests_per_minute": 60, "tokens_per_minute": None, "concurrent": 2}
    assert "60 requests a minute" in host.run_command("keys").stdout
    changed = host.run_command("keys", "limit", key["id"], "--tpm", "5000", "--concurrent", "none")
    assert "60 requests a minute, 5000 tokens a minute" in changed.stdout
    [key] = host.run_json_command("keys", "list")["keys"]
    limits = {"requests_per_minute": 60, "tokens_per_minute": 5000, "concurrent": None}
    assert key["limits"] == key["ceiling"] == limits
    admin = host.run_command("keys", "create", "admin", "--scope", "admin").stdout.strip()
    host.start_server()
    target = f"laptop ({key['prefix']}…): 60 requests a minute, 5000 tokens a minute"
    assert ("local", "key.limits", target) in audit(host, admin)


def test_invalid_limits(host: CommandHost) -> None:
    host.run_command("keys", "create", "laptop")
    [key] = host.run_json_command("keys", "list")["keys"]
    assert "--rpm" in host.run_failing_command("keys", "limit", key["id"])
    assert "1000000000" in host.run_failing_command("keys", "limit", key["id"], "--rpm", "99999999999")


def test_a_key_needs_a_name(host: CommandHost) -> None:
    assert "name" in host.run_failing_command("keys", "create", "")


def test_the_list_shows_prefixes_of_keys_only(host: CommandHost) -> None:
    key = host.run_command("keys", "create", "laptop [red]x[/]", "--scope", "admin").stdout.strip()
    shown = host.run_command("keys").stdout
    assert "laptop [red]x[/]" in shown
    assert f"{key[:10]}…" in shown
    assert key[:12] not in shown


@pytest.mark.parametrize("name", ["id", "prefix", "shown", "whole"])
def test_revoking_works_at_once_in_a_running_server(host: CommandHost, name: str) -> None:
    key = host.run_command("keys", "create", "laptop", "--scope", "admin").stdout.strip()
    other = host.run_command("keys", "create", "desk", "--scope", "admin").stdout.strip()
    host.start_server()
    assert use(host, key) == 200
    names = {
        "id": host.run_json_command("keys")["keys"][0]["id"],
        "prefix": key[:9],
        "shown": f"{key[:10]}…",
        "whole": key,
    }
    assert "laptop" in host.run_command("keys", "revoke", names[name]).stdout
    deadline = time.monotonic() + 10
    while use(host, key) != 401:
        assert time.monotonic() < deadline
    assert use(host, other) == 200
    assert ("local", "key.delete", f"laptop ({key[:10]}…)") in audit(host, other)


def test_revoking_an_unknown_or_ambiguous_key(host: CommandHost) -> None:
    host.run_command("keys", "create", "a")
    assert "There is no key" in host.run_failing_command("keys", "revoke", "sk-zzzzzzz")
    # The prefix of all keys.
    assert "There is no key" in host.run_failing_command("keys", "revoke", "sk-")
    assert len(host.run_json_command("keys")["keys"]) == 1


# --- users -------------------------------------------------------------------------------------------


def test_users_are_added_changed_and_removed(host: CommandHost) -> None:
    host.run_command("password", stdin=f"{PASSWORD}\n")
    host.start_server()
    assert "bob" in host.run_command("users", "add", "bob", stdin=f"{NEW_PASSWORD}\n").stdout
    assert sign_in(host, "bob", NEW_PASSWORD) == 200
    assert "now admin" in host.run_command("users", "role", "BOB", "admin").stdout
    assert {user["username"]: user["role"] for user in host.run_json_command("users")["users"]} == {
        "admin": "admin",
        "bob": "admin",
    }
    host.run_command("users", "remove", "bob", "--yes")
    assert sign_in(host, "bob", NEW_PASSWORD) == 401
    key = host.run_command("keys", "create", "reader", "--scope", "admin").stdout.strip()
    records = audit(host, key)
    for action in ("user.create", "user.change role", "user.delete"):
        assert ("local", action, "bob") in records


def test_no_user_is_added_while_the_default_password_is_in_use(host: CommandHost) -> None:
    assert "llb password" in host.run_failing_command("users", "add", "bob", stdin=f"{NEW_PASSWORD}\n")
    assert "still 'test'" in host.run_command("users").stdout
    host.run_command("password", stdin=f"{PASSWORD}\n")
    host.run_command("users", "add", "bob", stdin=f"{NEW_PASSWORD}\n")


def test_the_first_admin_gets_the_password_of_the_environment(host: CommandHost) -> None:
    host.run_command("users", "add", "bob", stdin=f"{NEW_PASSWORD}\n", env={"LLB_ADMIN_PASSWORD": PASSWORD})
    host.start_server()
    assert sign_in(host, "admin", PASSWORD) == 200


def test_rejected_changes_of_users(host: CommandHost) -> None:
    host.run_command("password", stdin=f"{PASSWORD}\n")
    assert "last admin" in host.run_failing_command("users", "remove", "admin", "--yes")
    assert "last admin" in host.run_failing_command("users", "role", "admin", "user")
    assert "no user 'bob'" in host.run_failing_command("users", "role", "bob", "admin")
    assert "already exists" in host.run_failing_command("users", "add", "Admin", stdin=f"{NEW_PASSWORD}\n")
    assert "at least 8" in host.run_failing_command("users", "add", "bob", stdin="short\n")
    assert "No password" in host.run_failing_command("users", "add", "bob")
    assert [user["username"] for user in host.run_json_command("users")["users"]] == ["admin"]


# --- passwords ---------------------------------------------------------------------------------------


def test_a_forgotten_password_is_reset_and_ends_all_sessions(host: CommandHost) -> None:
    host.env["LLB_ADMIN_PASSWORD"] = PASSWORD
    host.start_server()
    with httpx.Client(base_url=host.url, trust_env=False, timeout=60) as browser:
        browser.post("/api/auth/login", json={"username": "admin", "password": PASSWORD}).raise_for_status()
        assert browser.get("/api/auth/me").status_code == 200
        host.run_command("password", stdin=f"{NEW_PASSWORD}\n")
        deadline = time.monotonic() + 60
        while browser.get("/api/auth/me").status_code != 401:
            assert time.monotonic() < deadline
    assert sign_in(host, "admin", PASSWORD) == 401
    assert sign_in(host, "admin", NEW_PASSWORD) == 200


def test_a_password_set_before_the_first_start_is_the_first_admins(host: CommandHost) -> None:
    host.run_command("password", stdin=f"{PASSWORD}\n")
    [admin] = host.run_json_command("users")["users"]
    assert (admin["username"], admin["role"], admin["must_change_password"]) == ("admin", "admin", False)
    host.start_server()
    assert sign_in(host, "admin", PASSWORD) == 200


@pytest.mark.parametrize(
    ("given", "message"), [("test\n", "choose another"), ("short\n", "at least 8"), ("\n", "No password")]
)
def test_rejected_passwords(host: CommandHost, given: str, message: str) -> None:
    assert message in host.run_failing_command("password", stdin=given)


def test_the_password_of_an_unknown_user(host: CommandHost) -> None:
    assert "no user 'bob'" in host.run_failing_command("password", "bob", stdin=f"{NEW_PASSWORD}\n")


def test_at_a_terminal_the_password_is_prompted_for_twice_and_not_shown(host: CommandHost) -> None:
    with host.open_terminal("password") as terminal:
        terminal.expect("New password for admin: ")
        terminal.write(f"{PASSWORD}\n")
        terminal.expect("Repeat the password: ")
        terminal.write(f"{PASSWORD}\n")
        assert terminal.wait() == 0
        assert PASSWORD not in terminal.output


def test_two_passwords_that_differ_change_nothing(host: CommandHost) -> None:
    with host.open_terminal("password") as terminal:
        terminal.expect("New password for admin: ")
        terminal.write(f"{PASSWORD}\n")
        terminal.expect("Repeat the password: ")
        terminal.write(f"{NEW_PASSWORD}\n")
        assert terminal.wait() == 1
        assert "differ" in terminal.output
    assert host.run_json_command("users")["users"] == []


@pytest.mark.parametrize(("typed", "status"), [("\x03", 130), ("\x04", 1)])
def test_leaving_the_prompt_changes_nothing(host: CommandHost, typed: str, status: int) -> None:
    with host.open_terminal("password") as terminal:
        terminal.expect("New password for admin: ")
        terminal.write(typed)
        assert terminal.wait() == status
        assert "Traceback" not in terminal.output
    assert host.run_json_command("users")["users"] == []


def test_removing_a_user_asks_at_a_terminal(host: CommandHost) -> None:
    host.run_command("password", stdin=f"{PASSWORD}\n")
    host.run_command("users", "add", "bob", stdin=f"{NEW_PASSWORD}\n")

    def names() -> list[Any]:
        return [user["username"] for user in host.run_json_command("users")["users"]]

    for typed, status, left in (("n\n", 1, ["admin", "bob"]), ("y\n", 0, ["admin"])):
        with host.open_terminal("users", "remove", "bob") as terminal:
            terminal.expect("[y/N] ")
            terminal.write(typed)
            assert terminal.wait() == status
        assert names() == left
