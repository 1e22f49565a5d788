"""Account service: sign-in, first password, users, and what each change ends."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from llb.accounts import service as service_module
from llb.accounts.authenticator import AccountAuthenticator
from llb.accounts.key_service import KeyService
from llb.accounts.service import AccountService, LoginSource, NewSession
from llb.config import DEFAULT_PASSWORD
from llb.errors import Conflict, InvalidCredentials, InvalidRequest, NotFound, PermissionDenied, SetupError
from llb.security import passwords
from llb.security.permissions import LOCAL_PRINCIPAL, Principal, PrincipalKind
from llb.store.database import Database
from llb.store.tables import audit, keys, settings, users
from llb.store.tables.users import User
from llb.wire import NewKey, NewUser, Role, UserPatch

PASSWORD, NEW_PASSWORD = "a good password", "another good password"
HERE = LoginSource(address="127.0.0.1")


async def is_local() -> None:
    """The request comes from this host."""


async def is_remote() -> None:
    raise PermissionDenied("The request comes from elsewhere")


class Accounts:
    """The service on a database, without routes."""

    def __init__(self, db: Database) -> None:
        self.db = db
        self.authenticator = AccountAuthenticator(db)
        self.service = AccountService(db, self.authenticator)

    async def user(self, name: str = "admin") -> User:
        found = await users.get_by_name(self.db, name)
        assert found is not None
        return found

    async def log_in(
        self, name: str = "admin", password: str = PASSWORD, source: LoginSource = HERE, **more: Any
    ) -> NewSession:
        how = {"require_local": is_local, "replaced_token": None} | more
        return await self.service.log_in(name, password, source, **how)

    async def principal_of(self, session: NewSession) -> Principal:
        principal = await self.authenticator.authenticate_session(session.token)
        assert principal is not None
        return principal

    async def is_valid(self, session: NewSession) -> bool:
        return await self.authenticator.authenticate_session(session.token) is not None

    async def add_key(self, owner: Principal, name: str = "laptop") -> None:
        await KeyService(self.db, self.authenticator).create_key(owner, NewKey(name), "127.0.0.1")

    async def audit_trail(self) -> list[tuple[str, str, str | None, str]]:
        records = await audit.list_newest(self.db)
        return [(record.actor, record.action, record.target, record.result) for record in reversed(records)]


@pytest.fixture
async def empty(tmp_path: Path) -> AsyncIterator[Accounts]:
    """Before the first start."""
    db = await Database.open(tmp_path / "llb.db")
    yield Accounts(db)
    await db.close()


@pytest.fixture
async def accounts(empty: Accounts) -> Accounts:
    """With the user `admin`, who has chosen a password."""
    await empty.service.ensure_admin(PASSWORD)
    return empty


# --- the first password ------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, DEFAULT_PASSWORD])
async def test_the_first_start_without_a_password_makes_the_default_one(
    empty: Accounts, given: str | None
) -> None:
    await empty.service.ensure_admin(given)
    admin = await empty.user()
    assert (admin.role, admin.must_change_password) == (Role.ADMIN, True)
    assert passwords.verify_password(DEFAULT_PASSWORD, admin.password_hash)
    assert await empty.audit_trail() == [("system", "user.create", "admin", "ok")]
    # The next start changes nothing.
    await empty.service.ensure_admin(given)
    assert await empty.user() == admin


async def test_a_password_of_the_environment_replaces_the_default_one_only(empty: Accounts) -> None:
    await empty.service.ensure_admin(None)
    session = await empty.log_in(password=DEFAULT_PASSWORD)
    await empty.add_key(await empty.principal_of(session))
    await empty.service.ensure_admin(PASSWORD)
    assert not await empty.is_valid(session)
    assert await keys.list_keys(empty.db) == []
    admin = await empty.user()
    assert not admin.must_change_password
    await empty.service.ensure_admin(NEW_PASSWORD)
    assert await empty.user() == admin


async def test_a_bad_password_of_the_environment_is_refused_and_nobody_is_made(empty: Accounts) -> None:
    with pytest.raises(SetupError, match=r"^LLB_ADMIN_PASSWORD: "):
        await empty.service.ensure_admin("short")
    assert await users.list_users(empty.db) == []


async def test_a_user_of_a_command_that_came_first_stays_the_only_one(
    empty: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command may add a user while the server hashes the password of the first admin."""
    add_first = User(
        id="u", username="ann", password_hash="h", role=Role.ADMIN, must_change_password=False, created_at=1.0
    )
    make = empty.service._new_user

    async def make_late(*arguments: Any, **more: Any) -> User:
        made = await make(*arguments, **more)
        async with empty.db.write() as tx:
            await users.add(tx, add_first)
        return made

    monkeypatch.setattr(empty.service, "_new_user", make_late)
    await empty.service.ensure_admin(PASSWORD)
    assert await users.list_users(empty.db) == [add_first]


async def test_the_setup_token_works_once_and_only_while_there_is_a_default_password(empty: Accounts) -> None:
    await empty.service.ensure_admin(None)
    token = empty.service.setup_token.issue()
    with pytest.raises(InvalidRequest):
        await empty.service.set_up(token, "short", HERE)
    session = await empty.service.set_up(token, PASSWORD, HERE)
    assert (await empty.principal_of(session)).username == "admin"
    assert not (await empty.user()).must_change_password
    with pytest.raises(InvalidCredentials, match="This link is not valid"):
        await empty.service.set_up(token, NEW_PASSWORD, HERE)
    late = empty.service.setup_token.issue()
    with pytest.raises(InvalidCredentials, match="changed already"):
        await empty.service.set_up(late, NEW_PASSWORD, HERE)
    assert passwords.verify_password(PASSWORD, (await empty.user()).password_hash)


# --- sign-in -----------------------------------------------------------------------------------------


async def test_who_is_refused_is_in_the_audit_log_unless_the_name_is_unknown(accounts: Accounts) -> None:
    """People type passwords into the field of the name by mistake."""
    for name in ("admin", "my secret password"):
        with pytest.raises(InvalidCredentials, match="The user name or the password is wrong"):
            await accounts.log_in(name, "wrong")
    assert await accounts.audit_trail() == [
        ("system", "user.create", "admin", "ok"),
        ("admin", "login", None, "invalid_credentials"),
        ("unknown", "login", None, "invalid_credentials"),
    ]


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("a" * (service_module.USERNAME_MAX_LENGTH + 1), "x"),
        ("admin", "x" * (passwords.PASSWORD_MAX_LENGTH + 1)),
    ],
)
async def test_what_no_account_can_have_is_refused_without_a_hash(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch, name: str, password: str
) -> None:
    def verify(*_: object) -> bool:
        raise AssertionError("a hash of this costs a core")

    monkeypatch.setattr(passwords, "verify_password", verify)
    with pytest.raises(InvalidCredentials):
        await accounts.log_in(name, password)


async def test_the_default_password_from_elsewhere_is_refused_and_noted(empty: Accounts) -> None:
    await empty.service.ensure_admin(None)
    with pytest.raises(PermissionDenied):
        await empty.log_in(password=DEFAULT_PASSWORD, require_local=is_remote)
    assert (await empty.audit_trail())[-1] == (
        "admin", "login", None, "refused: default password from elsewhere"
    )  # fmt: skip
    # Another password is not asked where it comes from.
    await empty.service.ensure_admin(PASSWORD)
    await empty.log_in(require_local=is_remote)


async def test_a_password_that_changes_while_the_old_one_is_verified_lets_nobody_in(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = accounts.service._verify_credentials

    async def verify_slowly(*arguments: Any, **more: Any) -> User:
        user = await verify(*arguments, **more)
        async with accounts.db.write() as tx:
            await users.set_password(tx, user.id, "another hash")
        return user

    monkeypatch.setattr(accounts.service, "_verify_credentials", verify_slowly)
    with pytest.raises(InvalidCredentials):
        await accounts.log_in()


async def test_a_login_strengthens_an_old_hash_and_ends_the_session_that_it_replaces(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await accounts.log_in()
    before = (await accounts.user()).password_hash
    monkeypatch.setattr(passwords, "needs_rehash", lambda _hash: True)
    second = await accounts.log_in(replaced_token=first.token)
    after = (await accounts.user()).password_hash
    assert after != before
    assert passwords.verify_password(PASSWORD, after)
    assert not await accounts.is_valid(first)
    assert await accounts.is_valid(second)


async def test_of_too_many_sessions_the_least_used_ends(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "MAX_SESSIONS_OF_USER", 2)
    opened = [await accounts.log_in() for _ in range(3)]
    assert [await accounts.is_valid(session) for session in opened] == [False, True, True]


async def test_a_device_is_told_its_token_once(accounts: Accounts) -> None:
    first = await accounts.log_in()
    assert first.device_token is not None
    known = LoginSource(address="10.0.0.9", device_token=first.device_token)
    assert (await accounts.log_in(source=known)).device_token is None
    forged = LoginSource(address="10.0.0.9", device_token=first.device_token + "x")
    assert (await accounts.log_in(source=forged)).device_token is not None


async def test_a_full_disk_locks_nobody_out(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> str:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(settings, "get_or_create", fail)
    assert (await accounts.log_in()).device_token is None


async def test_a_logout_ends_its_session_alone(accounts: Accounts) -> None:
    first, second = await accounts.log_in(), await accounts.log_in()
    await accounts.service.log_out(await accounts.principal_of(first), "127.0.0.1")
    assert (await accounts.is_valid(first), await accounts.is_valid(second)) == (False, True)


# --- passwords and users -----------------------------------------------------------------------------


async def test_a_new_password_ends_all_sessions_and_no_key(accounts: Accounts) -> None:
    session, other = await accounts.log_in(), await accounts.log_in()
    principal = await accounts.principal_of(session)
    await accounts.add_key(principal)
    with pytest.raises(InvalidCredentials):
        await accounts.service.change_password(principal, "wrong", NEW_PASSWORD, HERE)
    with pytest.raises(InvalidRequest):
        await accounts.service.change_password(principal, PASSWORD, "short", HERE)
    assert await accounts.is_valid(other)
    changed = await accounts.service.change_password(principal, PASSWORD, NEW_PASSWORD, HERE)
    assert changed.ended_keys == ()
    assert [await accounts.is_valid(each) for each in (session, other, changed)] == [False, False, True]
    assert [key.name for key in await keys.list_keys(accounts.db)] == ["laptop"]


async def test_keys_made_under_the_default_password_end_with_it_and_are_named(empty: Accounts) -> None:
    await empty.service.ensure_admin(None)
    principal = await empty.principal_of(await empty.log_in(password=DEFAULT_PASSWORD))
    await empty.add_key(principal)
    changed = await empty.service.change_password(principal, DEFAULT_PASSWORD, PASSWORD, HERE)
    [name] = changed.ended_keys
    assert name.startswith("laptop (sk-")
    assert ("admin", "key.delete", name, "default password") in await empty.audit_trail()
    assert not changed.user.must_change_password


async def test_what_has_no_user_has_no_password(accounts: Accounts) -> None:
    key = Principal(kind=PrincipalKind.KEY, id="k", role=Role.ADMIN)
    with pytest.raises(PermissionDenied, match="Only a user has a password"):
        await accounts.service.change_password(key, PASSWORD, NEW_PASSWORD, HERE)


async def test_no_user_is_added_under_the_default_password(empty: Accounts) -> None:
    await empty.service.ensure_admin(None)
    with pytest.raises(PermissionDenied, match="Change the default password first"):
        await empty.service.add_user(LOCAL_PRINCIPAL, NewUser("bob", PASSWORD), None)


@pytest.mark.parametrize("name", ["", " bob", "bob ", "a\nb", "a\u202eb", "a" * 65])
async def test_a_name_that_nobody_may_have(accounts: Accounts, name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await accounts.service.add_user(LOCAL_PRINCIPAL, NewUser(name, PASSWORD), None)
    assert refused.value.details["param"] == "username"


async def test_a_user_is_changed_as_a_whole_or_not_at_all(accounts: Accounts) -> None:
    await accounts.service.add_user(LOCAL_PRINCIPAL, NewUser("bob", PASSWORD), None)
    with pytest.raises(Conflict, match="exists already"):
        await accounts.service.add_user(LOCAL_PRINCIPAL, NewUser("BOB", PASSWORD), None)
    bob, session = await accounts.user("bob"), await accounts.log_in("bob")
    changed, _ = await accounts.service.change_user(
        LOCAL_PRINCIPAL, bob.id, UserPatch(role=Role.ADMIN, password=NEW_PASSWORD), None
    )
    assert changed.role is Role.ADMIN
    assert not await accounts.is_valid(session)
    assert (await accounts.audit_trail())[-1] == ("local", "user.change role+password", "bob", "ok")
    admin = await accounts.user()
    await accounts.service.remove_user(LOCAL_PRINCIPAL, bob.id, None)
    with pytest.raises(Conflict, match="last admin"):
        await accounts.service.change_user(
            LOCAL_PRINCIPAL, admin.id, UserPatch(role=Role.USER, password=NEW_PASSWORD), None
        )
    assert await accounts.user() == admin


async def test_an_admin_at_an_unlocked_browser_cannot_be_robbed_of_the_account(accounts: Accounts) -> None:
    principal = await accounts.principal_of(await accounts.log_in())
    assert principal.user_id is not None
    with pytest.raises(PermissionDenied, match="with your current one"):
        await accounts.service.change_user(
            principal, principal.user_id, UserPatch(password=NEW_PASSWORD), None
        )


async def test_of_a_user_that_is_not_there_nothing_is_noted(accounts: Accounts) -> None:
    before = await accounts.audit_trail()
    for change in (
        accounts.service.remove_user(LOCAL_PRINCIPAL, "nobody", None),
        accounts.service.change_user(LOCAL_PRINCIPAL, "nobody", UserPatch(role=Role.USER), None),
        accounts.service.change_user(LOCAL_PRINCIPAL, "nobody", UserPatch(), None),
    ):
        with pytest.raises(NotFound):
            await change
    assert await accounts.audit_trail() == before


async def test_a_view_shows_no_hash(accounts: Accounts) -> None:
    admin = await accounts.user()
    assert admin.password_hash not in repr(service_module.user_view(admin))
