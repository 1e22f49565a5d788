"""Keys, people and passwords: on the home's database, whether its server runs or not. A running one sees it within a second."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from llb.accounts.authenticator import AccountAuthenticator
from llb.accounts.key_policy import build_key, key_view
from llb.accounts.limit_policy import (
    apply_limits_patch,
    describe_limits,
    key_audit_target,
    limits_audit_target,
    limits_for_changed_key,
)
from llb.accounts.service import FIRST_ADMIN_USERNAME, AccountService, user_view
from llb.base.units import parse_duration
from llb.cli import output
from llb.cli.client import require_not_joined
from llb.cli.database import open_database, require_database
from llb.cli.errors import CommandError
from llb.cli.options import home_of
from llb.config import DEFAULT_PASSWORD
from llb.security import passwords, tokens
from llb.security.permissions import Principal, PrincipalKind
from llb.store.database import Database
from llb.store.tables import audit, keys, users
from llb.store.tables.keys import ApiKey
from llb.store.tables.users import User
from llb.wire import KeyLimits, KeyLimitsPatch, KeyList, NewKey, NewUser, Role, Scope, UserList, UserPatch

LOCAL_PRINCIPAL = Principal(kind=PrincipalKind.LOCAL, id="local", role=Role.ADMIN)
MIN_PREFIX_LENGTH = 6  # "sk-" and three digits


def _require_own_home(options: argparse.Namespace) -> Path:
    """The home whose accounts are meant. Raises `Failure` on a host that has none, because it lends itself to another."""
    home = home_of(options)
    require_not_joined(home)
    return home


# --- keys --------------------------------------------------------------------------------------------


def create_key(options: argparse.Namespace) -> int:
    """`llb keys create NAME`"""
    scopes = None if options.scopes is None else tuple(Scope(name) for name in dict.fromkeys(options.scopes))
    ends = None if options.expires is None else _parse_expiry(options.expires)
    wish = NewKey(options.name, scopes, ends, KeyLimits(**_limit_options(options)))
    new, record = build_key(wish, LOCAL_PRINCIPAL, time.time())

    async def work() -> None:
        async with open_database(_require_own_home(options)) as db, db.write() as tx:
            await keys.add(tx, record)
            await audit.record(
                tx, actor=LOCAL_PRINCIPAL.label, action="key.create", target=key_audit_target(record)
            )

    asyncio.run(work())
    output.print_line(new.key)  # alone, so that $(llb keys create …) is the key
    return 0


def list_keys(options: argparse.Namespace) -> int:
    """`llb keys list`"""
    require_database(_require_own_home(options))

    async def work() -> list[ApiKey]:
        async with open_database(_require_own_home(options)) as db:
            return await keys.list_keys(db)

    found = asyncio.run(work())
    if options.json:
        output.print_json(KeyList(tuple(key_view(key) for key in found)))
        return 0
    if not found:
        output.print_note("There are no keys yet: 'llb keys create NAME'.")
        return 0
    now = time.time()
    output.print_table(
        ("ID", "NAME", "KEY", "SCOPES", "OWNER", "LAST USED", "EXPIRES", "LIMITS"),
        [
            (
                key.id,
                key.name,
                f"{key.prefix}…",
                ", ".join(sorted(key.scopes)),
                key.owner_name or "this host",
                output.format_time(key.last_used_at),
                "expired"
                if key.expires_at is not None and key.expires_at <= now
                else output.format_time(key.expires_at),
                describe_limits(key.limits) or "none",
            )
            for key in found
        ],
    )
    return 0


def limit_key(options: argparse.Namespace) -> int:
    """`llb keys limit ID_OR_PREFIX`"""
    require_database(_require_own_home(options))
    given = _limit_options(options)
    if not given:
        raise CommandError(
            "Say which limit to change: --rpm, --tpm or --concurrent, with a number or 'none'."
        )

    async def work() -> tuple[ApiKey, KeyLimits]:
        async with open_database(_require_own_home(options)) as db, db.write() as tx:
            key = _find_key(await keys.list_keys(tx), options.key_name)
            limits, ceiling = limits_for_changed_key(
                apply_limits_patch(key.limits, KeyLimitsPatch(**given)), key.ceiling, LOCAL_PRINCIPAL
            )
            await keys.set_limits(tx, key.id, limits, ceiling)
            await audit.record(
                tx, actor=LOCAL_PRINCIPAL.label, action="key.limits", target=limits_audit_target(key, limits)
            )
            return key, limits

    key, limits = asyncio.run(work())
    output.print_line(f"The limits of the key {limits_audit_target(key, limits)}.")
    return 0


def _limit_options(options: argparse.Namespace) -> dict[str, int | None]:
    """The limits that were named, by their names in the API."""
    flags = {"rpm": "requests_per_minute", "tpm": "tokens_per_minute", "concurrent": "concurrent"}
    return {name: getattr(options, flag) for flag, name in flags.items() if hasattr(options, flag)}


def revoke_key(options: argparse.Namespace) -> int:
    """`llb keys revoke ID_OR_PREFIX`"""
    require_database(_require_own_home(options))

    async def work() -> ApiKey:
        async with open_database(_require_own_home(options)) as db, db.write() as tx:
            key = _find_key(await keys.list_keys(tx), options.key_name)
            await keys.remove(tx, key.id)
            await audit.record(
                tx, actor=LOCAL_PRINCIPAL.label, action="key.delete", target=key_audit_target(key)
            )
            return key

    key = asyncio.run(work())
    output.print_line(f"The key {key.name} ({key.prefix}…) is revoked.")
    return 0


def _find_key(found: list[ApiKey], name: str) -> ApiKey:
    """The one key that `name` means: its id, the whole key, or the beginning of its shown prefix."""
    whole = tokens.hash_token(name)
    exact = [key for key in found if name == key.id or whole == key.hash]
    begun = name.removesuffix("…")
    matches = exact or [
        key for key in found if len(begun) >= MIN_PREFIX_LENGTH and key.prefix.startswith(begun)
    ]
    if not matches:
        raise CommandError("There is no such key: 'llb keys list' shows their ids and prefixes.")
    if len(matches) > 1:
        names = ", ".join(f"{key.name} ({key.id})" for key in matches)
        raise CommandError(f"Several keys begin like that: {names}; name one by its id.")
    return matches[0]


def _parse_expiry(text: str) -> str:
    """The time that --expires means, as the API writes it: a span from now, or a time."""
    try:
        span_s = parse_duration(text)
    except ValueError:
        span_s = None
    if span_s is None:
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            raise CommandError(
                f"--expires: '{text}' is neither a span such as 30d nor a time such as 2027-01-31."
            ) from None
        return (at if at.tzinfo is not None else at.astimezone()).isoformat()
    if span_s <= 0:
        raise CommandError("--expires: a key must live for some time.")
    try:
        return (datetime.now(UTC) + timedelta(seconds=span_s)).isoformat()
    except OverflowError:
        raise CommandError("--expires: that is too far away.") from None


# --- people ------------------------------------------------------------------------------------------


def list_users(options: argparse.Namespace) -> int:
    """`llb users list`"""
    require_database(_require_own_home(options))

    async def work() -> list[User]:
        async with open_database(_require_own_home(options)) as db:
            return await users.list_users(db)

    found = asyncio.run(work())
    if options.json:
        output.print_json(UserList(tuple(user_view(user) for user in found)))
        return 0
    if not found:
        output.print_note("Nobody yet: the first start makes admin, and so does 'llb password'.")
        return 0
    output.print_table(
        ("NAME", "ROLE", "PASSWORD", "SINCE"),
        [
            (
                user.username,
                user.role,
                f"still '{DEFAULT_PASSWORD}', change it" if user.must_change_password else "set",
                output.format_time(user.created_at),
            )
            for user in found
        ],
    )
    return 0


def add_user(options: argparse.Namespace) -> int:
    """`llb users add NAME`"""

    async def may_begin() -> None:
        async with _open_accounts(options) as (db, _):
            if await users.is_default_password_in_use(db):
                raise CommandError(
                    "Change the default password first ('llb password'): until then nobody can be let in."
                )
            if await users.get_by_name(db, options.name) is not None:
                raise CommandError(f"A user '{options.name}' exists already.")

    async def work(password: str) -> None:
        async with _open_accounts(options) as (_, accounts):
            await accounts.add_user(
                LOCAL_PRINCIPAL, NewUser(options.name, password, Role(options.role)), None
            )

    asyncio.run(may_begin())  # before a password is asked for
    asyncio.run(work(output.read_new_password(options.name)))
    output.print_line(f"{options.name} may sign in now, as {options.role}.")
    return 0


def remove_user(options: argparse.Namespace) -> int:
    """`llb users remove NAME`"""
    require_database(_require_own_home(options))
    if not output.confirm(f"Remove {options.name}, with all sessions and keys?", assume_yes=options.yes):
        raise CommandError("Nobody was removed.")

    async def work() -> str:
        async with _open_accounts(options) as (db, accounts):
            user = await _require_user(db, options.name)
            await accounts.remove_user(LOCAL_PRINCIPAL, user.id, None)
            return user.username

    name = asyncio.run(work())
    output.print_line(f"{name} is removed.")
    return 0


def set_role(options: argparse.Namespace) -> int:
    """`llb users role NAME ROLE`"""
    require_database(_require_own_home(options))

    async def work() -> User:
        async with _open_accounts(options) as (db, accounts):
            user = await _require_user(db, options.name)
            return await accounts.change_user(
                LOCAL_PRINCIPAL, user.id, UserPatch(role=Role(options.role)), None
            )

    user = asyncio.run(work())
    output.print_line(f"{user.username} is {user.role} now.")
    return 0


def set_password(options: argparse.Namespace) -> int:
    """`llb password [USER]`"""

    async def whose() -> str:
        async with open_database(_require_own_home(options)) as db:
            found = await users.list_users(db)
            if not found and options.name in (None, FIRST_ADMIN_USERNAME):
                return FIRST_ADMIN_USERNAME
            return (await _require_user(db, options.name or _default_username(found))).username

    async def work(name: str, password: str) -> None:
        async with open_database(_require_own_home(options)) as db:
            accounts = AccountService(db, AccountAuthenticator(db))
            user = await users.get_by_name(db, name)
            if user is None:
                # The first start, without the default password: better than changing it afterwards.
                await accounts.ensure_admin(password)
            else:
                await accounts.change_user(LOCAL_PRINCIPAL, user.id, UserPatch(password=password), None)

    name = asyncio.run(whose())
    password = output.read_new_password(name)
    passwords.check_new_password(password)
    asyncio.run(work(name, password))
    output.print_line(f"The password of {name} is changed; all sessions of {name} have ended.")
    return 0


def _default_username(found: list[User]) -> str:
    """`admin`, or whoever is the only administrator."""
    if any(user.username == FIRST_ADMIN_USERNAME for user in found):
        return FIRST_ADMIN_USERNAME
    admins = [user.username for user in found if user.role is Role.ADMIN]
    if len(admins) != 1:
        raise CommandError("Say whose password: 'llb password USER'.")
    return admins[0]


async def _require_user(db: Database, name: str) -> User:
    user = await users.get_by_name(db, name)
    if user is None:
        raise CommandError(f"There is no user '{name}': 'llb users' lists them.")
    return user


@asynccontextmanager
async def _open_accounts(options: argparse.Namespace) -> AsyncIterator[tuple[Database, AccountService]]:
    """The accounts of the home, with the first administrator in them as the first start would make it."""
    async with open_database(_require_own_home(options)) as db:
        accounts = AccountService(db, AccountAuthenticator(db))
        await accounts.ensure_admin(os.environ.get("LLB_ADMIN_PASSWORD") or None)
        yield db, accounts
