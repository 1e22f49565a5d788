"""Endpoints and spill rules."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec
from msgspec import Struct, field

from llb.store.database import Reader, Transaction
from llb.wire import Capability, EndpointKind, ModelRates, SpillRule

# Name of this table in the owners of encrypted keys, see `llb.security.secret_box`.
SECRET_TABLE = "endpoints"  # noqa: S105


class EndpointSettings(Struct, frozen=True, kw_only=True):
    """Settings of an endpoint, besides its name, its address and its key.

    `mapped` has the models of the catalogue by the names of the endpoint's models.
    """

    kind: EndpointKind
    enabled: bool = True
    cloud: bool = False
    weight: float = 1.0
    priority: int = 0
    max_concurrency: int | None = None
    timeout_s: float | None = None
    tags: tuple[str, ...] = ()
    models: tuple[str, ...] | None = None
    aliases: dict[str, str] = field(default_factory=dict)
    mapped: dict[str, str] = field(default_factory=dict)
    set_fields: dict[str, Any] = field(default_factory=dict)
    strip_fields: tuple[str, ...] = ()
    prices: dict[str, ModelRates] = field(default_factory=dict)


class ListedModel(Struct, frozen=True, kw_only=True):
    """Model in the list of an endpoint."""

    name: str
    context_length: int | None = None
    capabilities: tuple[Capability, ...] = ()
    # The program says that it passes requests for this model on to a cloud.
    is_remote: bool = False


class EndpointRecord(Struct, frozen=True, kw_only=True):
    """Row of an endpoint. `key` is encrypted; `models` is the last list, of `listed_at`."""

    id: str
    name: str
    base_url: str
    settings: EndpointSettings
    key: str | None = None
    key_last_four: str | None = None
    key_changed_at: float | None = None
    key_changed_by: str | None = None
    models: tuple[ListedModel, ...] | None = None
    listed_at: float | None = None
    created_at: float


async def list_endpoints(db: Reader) -> list[EndpointRecord]:
    """All endpoints, in the order of their creation."""
    rows = await db.fetch_all("SELECT * FROM endpoints ORDER BY created_at, id")
    return [_record_from_row(row) for row in rows]


async def put(tx: Transaction, record: EndpointRecord) -> None:
    """Insert or replace an endpoint."""
    await tx.execute(
        """
        INSERT INTO endpoints (id, name, base_url, settings, key, key_last_four, key_changed_at,
            key_changed_by, models, listed_at, created_at)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (id) DO UPDATE SET name = excluded.name, base_url = excluded.base_url,
            settings = excluded.settings, key = excluded.key, key_last_four = excluded.key_last_four,
            key_changed_at = excluded.key_changed_at, key_changed_by = excluded.key_changed_by,
            models = excluded.models, listed_at = excluded.listed_at
        """,
        (
            record.id,
            record.name,
            record.base_url,
            _encode(record.settings),
            record.key,
            record.key_last_four,
            record.key_changed_at,
            record.key_changed_by,
            None if record.models is None else _encode(record.models),
            record.listed_at,
            record.created_at,
        ),
    )


async def set_models(
    tx: Transaction, endpoint_id: str, models: tuple[ListedModel, ...], listed_at: float
) -> None:
    """Store the last list of models of an endpoint."""
    await tx.execute(
        "UPDATE endpoints SET models = ?, listed_at = ? WHERE id = ?",
        (_encode(models), listed_at, endpoint_id),
    )


async def set_key(tx: Transaction, endpoint_id: str, key: str) -> None:
    """Store the key of an endpoint, encrypted again."""
    await tx.execute("UPDATE endpoints SET key = ? WHERE id = ?", (key, endpoint_id))


async def remove(tx: Transaction, endpoint_id: str) -> bool:
    """Remove an endpoint; False if there is none."""
    return bool(await tx.execute("DELETE FROM endpoints WHERE id = ?", (endpoint_id,)))


async def list_spill_rules(db: Reader) -> dict[str, tuple[SpillRule, ...]]:
    """Spill rules of all models that have some."""
    rows = await db.fetch_all("SELECT * FROM spill_rules ORDER BY model")
    return {
        row["model"]: msgspec.json.decode(row["rules"], type=tuple[SpillRule, ...], strict=False)
        for row in rows
    }


async def put_spill_rules(tx: Transaction, model: str, rules: tuple[SpillRule, ...]) -> None:
    """Set the rules of a model; without any they are removed."""
    if not rules:
        await tx.execute("DELETE FROM spill_rules WHERE model = ?", (model,))
        return
    await tx.execute(
        "INSERT OR REPLACE INTO spill_rules (model, rules) VALUES (?, ?)", (model, _encode(rules))
    )


def _encode(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _record_from_row(row: sqlite3.Row) -> EndpointRecord:
    models = row["models"]
    return EndpointRecord(
        **{
            **dict(row),
            "settings": msgspec.json.decode(row["settings"], type=EndpointSettings),
            "models": None if models is None else msgspec.json.decode(models, type=tuple[ListedModel, ...]),
        }
    )
