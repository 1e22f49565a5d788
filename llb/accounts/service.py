"""Account service: sign-in, sessions, passwords and users. Used by the routes and by the commands."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from typing import ParamSpec, TypeVar

from msgspec import Struct

from llb.accounts.audit_actor import audit_actor_of
from llb.accounts.authenticator import SESSION_IDLE_S, SESSION_MAX_S, AccountAuthenticator
from llb.accounts.device_token import device_id_of, new_device_token
from llb.accounts.limit_policy import key_audit_target
from llb.accounts.setup_token import SetupToken
from llb.accounts.write_limiter import WriteLimiter
from llb.base.timestamps import to_iso
from llb.config import DEFAULT_PASSWORD
from llb.errors import InvalidCredentials, InvalidRequest, NotFound, PermissionDenied, SetupError
from llb.security import passwords, tokens
from llb.security.login_rate_limiter import LoginAttempt, LoginRateLimiter, address_group
from llb.security.permissions import Principal
from llb.store.database import Database, Transaction
from llb.store.tables import audit, keys, sessions, settings, users
from llb.store.tables.audit import AuditActor
from llb.store.tables.users import User
from llb.texts.coded_text import CodedText
from llb.wire import NewUser, Role, UserPatch, UserView

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

FIRST_ADMIN_USERNAME = "admin"
USERNAME_MAX_LENGTH = 64
# The sessions that were used last; more are ended.
MAX_SESSIONS_OF_USER = 100
# Each hash takes 19 MiB and a core; more at once would only make all of them slower.
MAX_CONCURRENT_HASHES = 2
_DEVICE_SECRET = "device_secret"  # noqa: S105  # the name of the setting


class LoginSource(Struct, frozen=True, kw_only=True):
    """Where an attempt to sign in comes from, and the token by which its device is known, if it has one."""

    address: str
    device_token: str | None = None


class NewSession(Struct, frozen=True, kw_only=True):
    """A session that was started; `expires_at` in Unix seconds.

    `device_token` is for the device if it has none for this account. `ended_keys` names the API keys that
    ended with the default password.
    """

    token: str
    user: User
    expires_at: float
    device_token: str | None = None
    ended_keys: tuple[str, ...] = ()


class AccountService:
    """Signs users in and out, and manages them."""

    def __init__(self, db: Database, authenticator: AccountAuthenticator) -> None:
        self._db = db
        self._authenticator = authenticator
        self.setup_token = SetupToken()
        self._login_rate_limiter = LoginRateLimiter()
        self._session_limiter = WriteLimiter()
        self._known_device_secret: str | None = None
        self._hash_semaphore = asyncio.Semaphore(MAX_CONCURRENT_HASHES)

    async def ensure_admin(self, password: str | None) -> None:
        """Create the user `admin` at the first start; later, replace default passwords by `password`.

        Raises `SetupError` for a password that breaks the rules.
        """
        is_default = password is None or password == DEFAULT_PASSWORD
        existing_users = await users.list_users(self._db)
        default_users = [user for user in existing_users if user.must_change_password]
        if existing_users and (is_default or not default_users):
            return
        if password is not None and not is_default:
            try:
                passwords.check_new_password(password)
            except InvalidRequest as error:
                raise SetupError(f"LLB_ADMIN_PASSWORD: {error.message}.") from None
            if existing_users:
                await self._replace_default_passwords(default_users, password)
                return
        user = await self._new_user(
            FIRST_ADMIN_USERNAME, password or DEFAULT_PASSWORD, Role.ADMIN, is_default=is_default
        )
        async with self._db.write() as tx:
            # A command may have added a user while the password was hashed.
            if not await users.list_users(tx):
                await users.add(tx, user)
                await audit.record(tx, actor=audit.SYSTEM, action="user.create", target=user.username)

    async def _replace_default_passwords(self, default_users: list[User], password: str) -> None:
        new_hash = await self._hash_in_thread(passwords.hash_password, password)
        async with self._db.write(uses_ballast=True) as tx:
            for user in default_users:
                await self._store_password(tx, user, new_hash, actor=audit.SYSTEM, address=None)
        self._authenticator.clear_cache()

    async def log_in(
        self,
        username: str,
        password: str,
        source: LoginSource,
        *,
        require_local: Callable[[], Awaitable[None]],
        replaced_token: str | None,
    ) -> NewSession:
        """Start a session; the session of `replaced_token` ends.

        `require_local` is called for the default password, and raises `PermissionDenied` from elsewhere.
        Raises `InvalidCredentials` and `RateLimited`.
        """
        user = await self._verify_credentials(username, password, source, "login")
        if user.must_change_password:
            try:
                await require_local()
            except PermissionDenied:
                await self._record_denial(
                    user.username, "login", source.address, "refused: default password from elsewhere"
                )
                raise
        # Not the limit of the user's other changes: a key of the user must not be able to use it up.
        self._session_limiter.count(user.id)
        new_hash = None
        if passwords.needs_rehash(user.password_hash):
            new_hash = await self._hash_in_thread(passwords.hash_password, password)
        token, now = tokens.new_session_token(), self._db.clock.latest()
        async with self._db.write(uses_ballast=True) as tx:
            current = await users.get(tx, user.id)
            if current is None or current.password_hash != user.password_hash:
                # The password was changed while the old one was verified, and that change has ended all
                # sessions.
                raise InvalidCredentials("The user name or the password is wrong")
            if new_hash is not None:
                await users.rehash_password(tx, user.id, user.password_hash, new_hash)
            await sessions.remove_expired(tx, now=self._db.clock.earliest(), idle_s=SESSION_IDLE_S)
            if replaced_token is not None:
                await sessions.remove(tx, tokens.hash_token(replaced_token))
            await self._add_session(tx, token, user, now, source.address)
            await audit.record(tx, actor=_user_actor(user), action="login", address=source.address)
        self._authenticator.clear_cache()
        return NewSession(
            token=token,
            user=user,
            expires_at=now + SESSION_MAX_S,
            device_token=await self._device_token_for(user, source),
        )

    async def log_out(self, principal: Principal, address: str) -> None:
        """End the session of `principal`."""
        async with self._db.write(uses_ballast=True) as tx:
            await sessions.remove(tx, principal.id)
            await audit.record(tx, actor=audit_actor_of(principal), action="logout", address=address)
        self._authenticator.clear_cache()

    async def change_password(
        self, principal: Principal, current_password: str, new_password: str, source: LoginSource
    ) -> NewSession:
        """Change the password of `principal`, end its sessions and start a new one.

        Raises `InvalidCredentials`, `RateLimited`, `InvalidRequest` for a password that breaks the rules, and
        `PermissionDenied` for what is no user.
        """
        if principal.username is None:
            raise PermissionDenied("Only a user has a password")
        user = await self._verify_credentials(
            principal.username, current_password, source, "password", session_id=principal.id
        )
        return await self._start_with_password(user, new_password, source)

    async def set_up(self, token: str, new_password: str, source: LoginSource) -> NewSession:
        """Choose the first password with the setup token, which ends; start a session.

        Raises `InvalidCredentials` for a token that is not valid, `InvalidRequest` for a password that breaks
        the rules.
        """
        self.setup_token.check(token)
        passwords.check_new_password(new_password)
        user = next((each for each in await users.list_users(self._db) if each.must_change_password), None)
        # The token may have been used since.
        self.setup_token.check(token)
        self.setup_token.revoke()
        if user is None:
            raise InvalidCredentials(
                CodedText("setup_done", "The default password was changed already: sign in with the new one")
            )
        return await self._start_with_password(user, new_password, source)

    async def _start_with_password(self, user: User, new_password: str, source: LoginSource) -> NewSession:
        """Set the password of `user`, end all sessions and start a new one."""
        passwords.check_new_password(new_password)
        new_hash = await self._hash_in_thread(passwords.hash_password, new_password)
        token, now = tokens.new_session_token(), self._db.clock.latest()
        async with self._db.write(uses_ballast=True) as tx:
            ended_keys = await self._store_password(
                tx, user, new_hash, actor=_user_actor(user), address=source.address
            )
            await self._add_session(tx, token, user, now, source.address)
        self._authenticator.clear_cache()
        changed_user = await users.get(self._db, user.id)
        return NewSession(
            token=token,
            user=changed_user or user,
            expires_at=now + SESSION_MAX_S,
            device_token=await self._device_token_for(user, source),
            ended_keys=ended_keys,
        )

    async def add_user(self, actor: Principal, new_user: NewUser, address: str | None) -> User:
        """Add a user; raises `Conflict` for a taken name, `PermissionDenied` (default password in use)."""
        _check_username(new_user.username)
        passwords.check_new_password(new_user.password, "password")
        await self._require_no_default_password()
        user = await self._new_user(new_user.username, new_user.password, new_user.role)
        async with self._db.write() as tx:
            await users.add(tx, user)
            await audit.record(
                tx,
                actor=audit_actor_of(actor),
                action="user.create",
                target=user.username,
                address=address,
            )
        return user

    async def change_user(
        self, actor: Principal, user_id: str, patch: UserPatch, address: str | None
    ) -> tuple[User, tuple[str, ...]]:
        """Change a user's role or password; returns the user and the keys that ended, as `NewSession`.

        Raises `NotFound`, `Conflict` for the last administrator, and `PermissionDenied` for the actor's own
        password.
        """
        new_hash = None
        if patch.password is not None:
            if actor.user_id == user_id:
                # Otherwise anyone at an unlocked browser could take over the account.
                raise PermissionDenied(
                    CodedText("own_password", "Change your own password with your current one")
                )
            passwords.check_new_password(patch.password, "password")
            new_hash = await self._hash_in_thread(passwords.hash_password, patch.password)
        async with self._db.write(uses_ballast=True) as tx:
            if patch.role is not None:
                await users.set_role(tx, user_id, patch.role)
            before = await users.get(tx, user_id)
            if before is None:
                raise NotFound("There is no such user")
            ended_keys: tuple[str, ...] = ()
            if new_hash is not None:
                ended_keys = await self._end_access(tx, before, actor=audit_actor_of(actor), address=address)
                await users.set_password(tx, user_id, new_hash)
            user = await users.get(tx, user_id) or before
            changed = [name for name in ("role", "password") if getattr(patch, name) is not None]
            action = "user.change " + "+".join(changed) if changed else "user.change"
            await audit.record(
                tx, actor=audit_actor_of(actor), action=action, target=user.username, address=address
            )
        self._authenticator.clear_cache()
        return user, ended_keys

    async def remove_user(self, actor: Principal, user_id: str, address: str | None) -> None:
        """Remove a user with all sessions and keys; raises `NotFound`, `Conflict` for the last admin."""
        async with self._db.write(uses_ballast=True) as tx:
            user = await users.get(tx, user_id)
            await users.remove(tx, user_id)
            await audit.record(
                tx,
                actor=audit_actor_of(actor),
                action="user.delete",
                target=None if user is None else user.username,
                address=address,
            )
        self._authenticator.clear_cache()

    async def _verify_credentials(
        self, username: str, password: str, source: LoginSource, action: str, *, session_id: str | None = None
    ) -> User:
        """Return the user with this name and password; limits the rate of attempts and audits failures.

        `session_id` is that of the user who is signed in already: such a device is known.
        """
        if len(username) > USERNAME_MAX_LENGTH or len(password) > passwords.PASSWORD_MAX_LENGTH:
            raise InvalidCredentials("The user name or the password is wrong")
        user = await users.get_by_name(self._db, username)
        attempt = await self._login_attempt(username, user, source, session_id)
        self._login_rate_limiter.record_attempt(attempt)
        password_hash = None if user is None else user.password_hash
        verified = await self._hash_in_thread(passwords.verify_password, password, password_hash)
        if user is None or not verified:
            # An unknown name is not recorded: people type passwords into that field by mistake.
            await self._record_denial(
                "unknown" if user is None else user.username, action, source.address, "invalid_credentials"
            )
            raise InvalidCredentials("The user name or the password is wrong")
        self._login_rate_limiter.record_success(attempt)
        return user

    async def _login_attempt(
        self, username: str, user: User | None, source: LoginSource, session_id: str | None
    ) -> LoginAttempt:
        """Describe an attempt; the same work for every name, so that the duration reveals nothing."""
        user_id = None if user is None else user.id
        secret = await self._device_secret()
        known_addresses = await sessions.list_addresses(self._db, user_id or "")
        return LoginAttempt(
            username=username,
            address=source.address,
            user_id=user_id,
            device_id=(device_id_of(source.device_token, secret, user_id) if secret else None) or session_id,
            is_known_address=address_group(source.address) in map(address_group, known_addresses),
        )

    async def _device_token_for(self, user: User, source: LoginSource) -> str | None:
        """Return a token for the device of `source`; None if it has one."""
        secret = await self._device_secret()
        if not secret or device_id_of(source.device_token, secret, user.id) is not None:
            return None
        return new_device_token(secret, user.id)

    async def _device_secret(self) -> str:
        """Return the secret of device tokens."""
        if self._known_device_secret is None:
            try:
                self._known_device_secret = await settings.get_or_create(
                    self._db, _DEVICE_SECRET, tokens.new_session_token
                )
            except sqlite3.Error as error:
                # A full disk must not lock users out.
                log.warning("devices are not remembered until this can be written: %s", error)
                return ""
        return self._known_device_secret

    async def _store_password(
        self, tx: Transaction, user: User, new_hash: str, *, actor: AuditActor, address: str | None
    ) -> tuple[str, ...]:
        """Set a password, end the user's access and write the audit record; returns the keys that ended."""
        ended_keys = await self._end_access(tx, user, actor=actor, address=address)
        await users.set_password(tx, user.id, new_hash)
        await audit.record(tx, actor=actor, action="password", target=user.username, address=address)
        return ended_keys

    async def _end_access(
        self, tx: Transaction, user: User, *, actor: AuditActor, address: str | None
    ) -> tuple[str, ...]:
        """End the sessions of `user`, and under the default password, which everybody knows, also the keys.

        Returns the names of the keys that ended.
        """
        await sessions.remove_by_user(tx, user.id)
        if not user.must_change_password:
            return ()
        ended = tuple(key_audit_target(key) for key in await keys.remove_by_owner(tx, user.id))
        for name in ended:
            await audit.record(
                tx, actor=actor, action="key.delete", target=name, address=address, result="default password"
            )
        if ended:
            log.warning("the API keys made under the default password have ended: %s", ", ".join(ended))
        self.setup_token.revoke()
        return ended

    async def _require_no_default_password(self) -> None:
        if await users.is_default_password_in_use(self._db):
            raise PermissionDenied(
                CodedText(
                    "default_password_users",
                    "Change the default password first; no user can be added while it is in use",
                )
            )

    async def _new_user(self, username: str, password: str, role: Role, *, is_default: bool = False) -> User:
        return User(
            id=tokens.new_random_id(),
            username=username,
            password_hash=await self._hash_in_thread(passwords.hash_password, password),
            role=role,
            must_change_password=is_default,
            created_at=self._db.clock.now(),
        )

    async def _add_session(self, tx: Transaction, token: str, user: User, now: float, address: str) -> None:
        await sessions.add(
            tx,
            session_id=tokens.hash_token(token),
            user_id=user.id,
            now=now,
            expires_at=now + SESSION_MAX_S,
            address=address,
        )
        await sessions.remove_excess(tx, user.id, MAX_SESSIONS_OF_USER)

    async def _record_denial(self, username: str, action: str, address: str, result: str) -> None:
        """Record a refusal, which also holds if the record cannot be written.

        It does not use the ballast: strangers could use it up.
        """
        actor = AuditActor(label=username, id=address)
        try:
            async with self._db.write() as tx:
                await audit.record(
                    tx, actor=actor, action=action, address=address, result=result, denied=True
                )
        except sqlite3.Error as error:
            log.warning(
                "%s of %s from %s (%s) is not in the audit log: %s", action, username, address, result, error
            )

    async def _hash_in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        async with self._hash_semaphore:
            return await asyncio.to_thread(work, *args, **kwargs)


def _user_actor(user: User) -> AuditActor:
    return AuditActor(label=user.username, id=user.id, is_admin=user.role is Role.ADMIN)


def _check_username(username: str) -> None:
    """Raise `InvalidRequest` for an invalid name; printable characters of every language are valid."""
    if (
        not (0 < len(username) <= USERNAME_MAX_LENGTH)
        or not username.isprintable()
        or username != username.strip()
    ):
        raise InvalidRequest(
            CodedText(
                "user_name_rule",
                "A user name has 1 to {max} printable characters, without spaces at its ends",
                max=USERNAME_MAX_LENGTH,
            ),
            param="username",
        )


def user_view(user: User) -> UserView:
    """Return the view of a user for the API and the commands."""
    return UserView(
        id=user.id,
        username=user.username,
        role=user.role,
        must_change_password=user.must_change_password,
        created_at=to_iso(user.created_at),
    )
