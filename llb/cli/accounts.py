"""Commands for API keys, users and passwords.

They change the database of the data directory, with or without a running server, which sees the change within
a second.
"""

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
from llb.accounts.key_policy import key_view
from llb.accounts.key_service import KeyService
from llb.accounts.limit_policy import describe_limits, limits_audit_target
from llb.accounts.service import FIRST_ADMIN_USERNAME, AccountService, user_view
from llb.base import runfile
from llb.base.units import parse_duration
from llb.cli import output
from llb.cli.client import require_not_joined
from llb.cli.errors import CommandError
from llb.cli.host.database import open_database, require_database
from llb.cli.options import home_of
from llb.cli.tables import print_table
from llb.config import DEFAULT_PASSWORD
from llb.security import passwords, tokens
from llb.security.permissions import LOCAL_PRINCIPAL
from llb.store.database import Database
from llb.store.tables import keys, users
from llb.store.tables.keys import ApiKey
from llb.store.tables.users import User
from llb.wire import KeyLimits, KeyLimitsPatch, KeyList, NewKey, NewUser, Role, Scope, UserList, UserPatch

# "sk-" and three digits.
MIN_PREFIX_LENGTH = 6


def _require_accounts_home(options: argparse.Namespace) -> Path:
    """Data directory with the accounts. Raises `CommandError` on a joined host, which has no accounts."""
    home = home_of(options)
    require_not_joined(home)
    return home


# --- keys --------------------------------------------------------------------------------------------


def create_key(options: argparse.Namespace) -> int:
    """`llb keys create NAME`"""
    scopes = None if options.scopes is None else tuple(Scope(name) for name in dict.fromkeys(options.scopes))
    expires_at = None if options.expires is None else _parse_expiry(options.expires)
    body = NewKey(options.name, scopes, expires_at, KeyLimits(**_limit_options(options)))

    async def run() -> str:
        async with _open_keys(options) as (_, key_service):
            new, _ = await key_service.create_key(LOCAL_PRINCIPAL, body, None)
            return new.key

    key = asyncio.run(run())
    # The only line on standard output, so that $(llb keys create …) is the key.
    output.print_line(key)
    server = runfile.find_running_server(home_of(options))
    if server is not None:
        output.print_note(
            f"Base URL of OpenAI clients: {server.url}/v1; of Anthropic and Ollama clients: {server.url}. "
            "The key is not shown again."
        )
    return 0


def list_keys(options: argparse.Namespace) -> int:
    """`llb keys list`"""
    require_database(_require_accounts_home(options))

    async def run() -> list[ApiKey]:
        async with open_database(_require_accounts_home(options)) as db:
            return await keys.list_keys(db)

    found = asyncio.run(run())
    if options.json:
        output.print_json(KeyList(tuple(key_view(key) for key in found)))
        return 0
    if not found:
        output.print_note("There are no keys yet: create one with 'llb keys create NAME'.")
        return 0
    now = time.time()
    print_table(
        ("NAME", "ID", "KEY", "SCOPES", "OWNER", "LAST USED", "EXPIRES", "LIMITS"),
        [
            (
                key.name,
                key.id,
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
        flexible=3,
        droppable=(7, 4, 1, 5, 3),
    )
    return 0


def limit_key(options: argparse.Namespace) -> int:
    """`llb keys limit KEY`"""
    require_database(_require_accounts_home(options))
    changes = _limit_options(options)
    if not changes:
        raise CommandError("Name a limit to change: --rpm, --tpm or --concurrent, with a number or 'none'.")

    async def run() -> ApiKey:
        async with _open_keys(options) as (db, key_service):
            key = await _find_key(db, options.key_name)
            return await key_service.change_limits(LOCAL_PRINCIPAL, key.id, KeyLimitsPatch(**changes), None)

    key = asyncio.run(run())
    output.print_line(f"The limits of the key {limits_audit_target(key, key.limits)}.")
    return 0


def _limit_options(options: argparse.Namespace) -> dict[str, int | None]:
    """Limits that the options set, by their field names in the API."""
    flags = {"rpm": "requests_per_minute", "tpm": "tokens_per_minute", "concurrent": "concurrent"}
    return {name: getattr(options, flag) for flag, name in flags.items() if hasattr(options, flag)}


def revoke_key(options: argparse.Namespace) -> int:
    """`llb keys revoke KEY`"""
    require_database(_require_accounts_home(options))

    async def run() -> tuple[ApiKey, int]:
        async with _open_keys(options) as (db, key_service):
            key = await _find_key(db, options.key_name)
            return await key_service.revoke_key(LOCAL_PRINCIPAL, key.id, None)

    key, descendants = asyncio.run(run())
    also = f", with the {descendants} keys made with it" if descendants else ""
    output.print_line(f"The key {key.name} ({key.prefix}…) was revoked{also}.")
    return 0


async def _find_key(db: Database, name: str) -> ApiKey:
    """Key with this id, this value, this name, or a prefix that starts like this.

    Raises `CommandError` for none or several.
    """
    prefix = name.removesuffix("…")
    matches = await keys.find(
        db,
        id_or_hash=(name, tokens.hash_token(name)),
        name=name,
        prefix=prefix if len(prefix) >= MIN_PREFIX_LENGTH else "",
    )
    if not matches:
        raise CommandError(f"There is no key '{_displayable(name)}': 'llb keys' lists them.")
    if len(matches) > 1:
        names = ", ".join(f"{key.name} ({key.id})" for key in matches)
        raise CommandError(f"Several keys match: {names}. Use the id of one.")
    return matches[0]


def _displayable(name: str) -> str:
    """`name` as an error shows it: a key that was typed in full must not be in it."""
    return f"{name[:MIN_PREFIX_LENGTH]}…" if name.startswith("sk-") else name


def _parse_expiry(text: str) -> str:
    """Value of --expires as an ISO 8601 time: a duration from now, or a time. Raises `CommandError`."""
    try:
        duration_s = parse_duration(text)
    except ValueError:
        duration_s = None
    if duration_s is None:
        try:
            at = datetime.fromisoformat(text)
        except ValueError:
            raise CommandError(
                f"--expires: '{text}' is neither a duration such as 30d nor a time such as 2027-01-31."
            ) from None
        return (at if at.tzinfo is not None else at.astimezone()).isoformat()
    if duration_s <= 0:
        raise CommandError("--expires: the duration must be longer than zero.")
    try:
        return (datetime.now(UTC) + timedelta(seconds=duration_s)).isoformat()
    except OverflowError:
        raise CommandError("--expires: the time is too far in the future.") from None


# --- users -------------------------------------------------------------------------------------------


def list_users(options: argparse.Namespace) -> int:
    """`llb users list`"""
    require_database(_require_accounts_home(options))

    async def run() -> list[User]:
        async with open_database(_require_accounts_home(options)) as db:
            return await users.list_users(db)

    found = asyncio.run(run())
    if options.json:
        output.print_json(UserList(tuple(user_view(user) for user in found)))
        return 0
    if not found:
        output.print_note(
            "There are no users yet: the first start creates admin, and so does 'llb password'."
        )
        return 0
    print_table(
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
        flexible=2,
        droppable=(3,),
    )
    return 0


def add_user(options: argparse.Namespace) -> int:
    """`llb users add NAME`"""

    async def check_can_add() -> None:
        async with _open_accounts(options) as (db, _):
            if await users.is_default_password_in_use(db):
                raise CommandError(
                    "Change the default password first with 'llb password': until then no user can be added."
                )
            if await users.get_by_name(db, options.name) is not None:
                raise CommandError(f"A user '{options.name}' already exists.")

    async def run(password: str) -> None:
        async with _open_accounts(options) as (_, accounts):
            await accounts.add_user(
                LOCAL_PRINCIPAL, NewUser(options.name, password, Role(options.role)), None
            )

    # Fails before the password prompt.
    asyncio.run(check_can_add())
    asyncio.run(run(output.read_new_password(options.name)))
    output.print_line(f"{options.name} can now sign in as {options.role}.")
    return 0


def remove_user(options: argparse.Namespace) -> int:
    """`llb users remove NAME`"""
    require_database(_require_accounts_home(options))
    if not output.confirm(f"Remove {options.name} with all sessions and keys?", assume_yes=options.yes):
        raise CommandError("No user was removed.")

    async def run() -> str:
        async with _open_accounts(options) as (db, accounts):
            user = await _require_user(db, options.name)
            await accounts.remove_user(LOCAL_PRINCIPAL, user.id, None)
            return user.username

    name = asyncio.run(run())
    output.print_line(f"{name} was removed.")
    return 0


def set_role(options: argparse.Namespace) -> int:
    """`llb users role NAME ROLE`"""
    require_database(_require_accounts_home(options))

    async def run() -> User:
        async with _open_accounts(options) as (db, accounts):
            user = await _require_user(db, options.name)
            changed, _ = await accounts.change_user(
                LOCAL_PRINCIPAL, user.id, UserPatch(role=Role(options.role)), None
            )
            return changed

    user = asyncio.run(run())
    output.print_line(f"{user.username} is now {user.role}.")
    return 0


def set_password(options: argparse.Namespace) -> int:
    """`llb password [USER]`"""

    async def find_username() -> str:
        async with open_database(_require_accounts_home(options)) as db:
            found = await users.list_users(db)
            if not found and options.name in (None, FIRST_ADMIN_USERNAME):
                return FIRST_ADMIN_USERNAME
            return (await _require_user(db, options.name or _default_username(found))).username

    async def run(name: str, password: str) -> tuple[str, ...]:
        async with open_database(_require_accounts_home(options)) as db:
            accounts = AccountService(db, AccountAuthenticator(db))
            user = await users.get_by_name(db, name)
            if user is None:
                # Before the first start: admin gets this password instead of the default one.
                await accounts.ensure_admin(password)
                return ()
            _, ended = await accounts.change_user(
                LOCAL_PRINCIPAL, user.id, UserPatch(password=password), None
            )
            return ended

    name = asyncio.run(find_username())
    password = output.read_new_password(name)
    passwords.check_new_password(password)
    ended_keys = asyncio.run(run(name, password))
    output.print_line(f"The password of {name} was changed; all sessions of {name} have ended.")
    if ended_keys:
        output.print_line(f"So have the API keys made under the default password: {', '.join(ended_keys)}.")
    return 0


def _default_username(found: list[User]) -> str:
    """`admin`, else the only administrator. Raises `CommandError` if there are several."""
    if any(user.username == FIRST_ADMIN_USERNAME for user in found):
        return FIRST_ADMIN_USERNAME
    admins = [user.username for user in found if user.role is Role.ADMIN]
    if len(admins) != 1:
        raise CommandError("Name the user: 'llb password USER'.")
    return admins[0]


async def _require_user(db: Database, name: str) -> User:
    user = await users.get_by_name(db, name)
    if user is None:
        raise CommandError(f"There is no user '{name}': 'llb users' lists them.")
    return user


@asynccontextmanager
async def _open_keys(options: argparse.Namespace) -> AsyncIterator[tuple[Database, KeyService]]:
    async with open_database(_require_accounts_home(options)) as db:
        yield db, KeyService(db, AccountAuthenticator(db))


@asynccontextmanager
async def _open_accounts(options: argparse.Namespace) -> AsyncIterator[tuple[Database, AccountService]]:
    """Open the accounts; create the first administrator as the first start of the server does."""
    async with open_database(_require_accounts_home(options)) as db:
        accounts = AccountService(db, AccountAuthenticator(db))
        await accounts.ensure_admin(os.environ.get("LLB_ADMIN_PASSWORD") or None)
        yield db, accounts
