"""Encrypted values of the database: keys of endpoints and secret settings."""

from __future__ import annotations

from llb.cluster.stored_settings import is_secret, parse_secret_row
from llb.security.secret_box import SealedSecret, SecretOwner
from llb.store.database import Reader
from llb.store.tables import endpoints, settings
from llb.store.tables.endpoints import SECRET_TABLE


async def list_sealed(db: Reader) -> dict[SealedSecret, str]:
    """Return the stored secrets with names for people."""
    found = {
        SealedSecret(SecretOwner(SECRET_TABLE, record.id, record.base_url), record.key): (
            f"The key of endpoint '{record.name}'"
        )
        for record in await endpoints.list_endpoints(db)
        if record.key is not None
    }
    for name, text in (await settings.get_stored(db)).items():
        if is_secret(name):
            found[parse_secret_row(name, text)] = f"The setting {name}"
    return found
