"""Key service: API keys are made, limited and revoked here, by the routes and by the commands."""

from __future__ import annotations

from msgspec import structs

from llb.accounts.audit_actor import audit_actor_of
from llb.accounts.authenticator import AccountAuthenticator
from llb.accounts.key_policy import MAX_KEYS_OF_ADMIN, MAX_KEYS_OF_USER, build_key, can_manage
from llb.accounts.limit_policy import (
    apply_limits_patch,
    key_audit_target,
    limits_audit_target,
    limits_for_changed_key,
)
from llb.errors import KeyLimitReached, NotFound
from llb.security.permissions import Principal
from llb.security.tokens import NewApiKey
from llb.store.database import Database, Transaction
from llb.store.tables import audit, keys
from llb.store.tables.keys import ApiKey
from llb.wire import KeyLimitsPatch, NewKey, Role


class KeyService:
    """Makes, limits and revokes API keys."""

    def __init__(self, db: Database, authenticator: AccountAuthenticator) -> None:
        self._db = db
        self._authenticator = authenticator

    async def create_key(
        self, actor: Principal, requested: NewKey, address: str | None
    ) -> tuple[NewApiKey, ApiKey]:
        """Create a key; raises `InvalidRequest`, `PermissionDenied`, and `KeyLimitReached`."""
        new_key, record = build_key(requested, actor, self._db.clock.latest())
        async with self._db.write() as tx:
            await _make_room(tx, actor, record, expired_before=self._db.clock.earliest())
            await keys.add(tx, record)
            await audit.record(
                tx,
                actor=audit_actor_of(actor),
                action="key.create",
                target=key_audit_target(record),
                address=address,
            )
        return new_key, record

    async def change_limits(
        self, actor: Principal, key_id: str, patch: KeyLimitsPatch | None, address: str | None
    ) -> ApiKey:
        """Change the limits of a key; raises `NotFound`, `InvalidRequest` and `PermissionDenied`."""
        async with self._db.write() as tx:
            key = await _get_managed_key(tx, actor, key_id)
            limits, ceiling = limits_for_changed_key(
                apply_limits_patch(key.limits, patch), key.ceiling, actor
            )
            await keys.set_limits(tx, key_id, limits, ceiling)
            await audit.record(
                tx,
                actor=audit_actor_of(actor),
                action="key.limits",
                target=limits_audit_target(key, limits),
                address=address,
            )
        self._authenticator.clear_cache()
        return structs.replace(key, limits=limits, ceiling=ceiling)

    async def revoke_key(self, actor: Principal, key_id: str, address: str | None) -> tuple[ApiKey, int]:
        """Revoke a key and those that come from it; returns it, and their number. Raises `NotFound`."""
        async with self._db.write(uses_ballast=True) as tx:
            key = await _get_managed_key(tx, actor, key_id)
            descendants = await keys.count_descendants(tx, key_id)
            await keys.remove(tx, key_id)
            target = key_audit_target(key)
            await audit.record(
                tx,
                actor=audit_actor_of(actor),
                action="key.delete",
                target=f"{target} and {descendants} made with it" if descendants else target,
                address=address,
            )
        self._authenticator.clear_cache()
        return key, descendants


async def _get_managed_key(tx: Transaction, actor: Principal, key_id: str) -> ApiKey:
    """Return a key; raises `NotFound` also for a key of another user, so that its existence stays hidden."""
    key = await keys.get(tx, key_id)
    if key is None or not can_manage(actor, key):
        raise NotFound("There is no such API key")
    return key


async def _make_room(tx: Transaction, creator: Principal, key: ApiKey, *, expired_before: float) -> None:
    """Raise `KeyLimitReached` if `creator` has as many keys as it may; removes expired ones before that."""
    if key.owner_id is not None:
        most = MAX_KEYS_OF_ADMIN if creator.role is Role.ADMIN else MAX_KEYS_OF_USER
        if await keys.count_of_owner(tx, key.owner_id) >= most:
            await keys.remove_expired_of_owner(tx, key.owner_id, expired_before)
            if await keys.count_of_owner(tx, key.owner_id) >= most:
                raise KeyLimitReached(most)
    elif (
        # It comes from a key that was made on the host.
        key.parent_id is not None and await keys.count_descendants(tx, creator.root_id) >= MAX_KEYS_OF_ADMIN
    ):
        raise KeyLimitReached(MAX_KEYS_OF_ADMIN)
