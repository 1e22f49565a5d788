"""Encrypted values: all of them are found, each with the owner that opens it."""

from __future__ import annotations

from pathlib import Path

from llb.cli.host.sealed_secrets import list_sealed
from llb.cluster.stored_settings import format_secret_row
from llb.security.secret_box import SealedSecret, SecretBox, SecretOwner
from llb.store.database import Database
from llb.store.tables import endpoints, settings
from llb.store.tables.endpoints import SECRET_TABLE, EndpointRecord, EndpointSettings
from llb.wire import EndpointKind

URL = "https://cloud.example/v1"


async def test_keys_of_endpoints_and_secret_settings_are_found(tmp_path: Path) -> None:
    box = SecretBox(tmp_path / "key")
    token_owner = SecretOwner(settings.STORED_SETTINGS, "hf_token", "https://huggingface.co")
    token = SealedSecret(token_owner, box.seal("hf_x", token_owner))
    with_key = EndpointRecord(
        id="e1",
        name="cloud",
        base_url=URL,
        settings=EndpointSettings(kind=EndpointKind.VLLM),
        key=box.seal("sk-x", SecretOwner(SECRET_TABLE, "e1", URL)),
        created_at=0.0,
    )
    without_key = EndpointRecord(
        id="e2", name="box", base_url=URL, settings=with_key.settings, created_at=0.0
    )
    db = await Database.open(tmp_path / "llb.db")
    try:
        assert await list_sealed(db) == {}
        async with db.write() as tx:
            await endpoints.put(tx, with_key)
            await endpoints.put(tx, without_key)
            await settings.put_stored(tx, {"hf_token": format_secret_row(token), "slots": "3"})
        found = await list_sealed(db)
    finally:
        await db.close()
    assert {name: box.open(secret.sealed, secret.owner) for secret, name in found.items()} == {
        "The key of endpoint 'cloud'": "sk-x",
        "The setting hf_token": "hf_x",
    }
