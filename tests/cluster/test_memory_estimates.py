"""Memory estimates: headers from cache or Hub, a host that is described, errors with a code."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from llb import errors
from llb.cluster.memory_estimates import MemoryEstimates
from llb.cluster.peer_sources import PeerSources
from llb.cluster.registrations import Registrations
from llb.cluster.view import ClusterView
from llb.hardware import MemoryBudget
from llb.hub import HubGated, HubUnreachable
from llb.policy.memory import NEUTRAL
from llb.store.database import Database
from llb.store.tables import header_cache
from llb.wire import Model
from tests.cluster.fake_hub import FakeHub
from tests.ggufs import write_chat_model

GB = 10**9


class Host:
    """Estimates over a fake Hub that has the file of `tiny`."""

    def __init__(self, db: Database, view: ClusterView, content: bytes) -> None:
        self.db = db
        self.hub = FakeHub(len(content))
        self.hub.content = content
        self.capacity: Any = (MemoryBudget(8 * GB), ())
        sources = PeerSources(
            view,
            get_local_node_id=lambda: "n1",
            address_of=lambda _node_id: None,
            file_token_secret_of=lambda _node_id: None,
        )
        entry = view.get_model("tiny")
        assert entry is not None
        self.model: Model = entry
        hub = self.hub.as_client()
        self.estimates = MemoryEstimates(
            db,
            hub,
            view,
            Registrations(db, hub, view, sources),
            get_own_capacity=lambda: self.capacity,
            get_calibration=lambda _model_id, _shape: NEUTRAL,
            get_llama_build=lambda: None,
            slots=2,
            context_length=256,
        )

    async def estimate(self, context_length: int | None = None, slots: int = 1) -> Any:
        return await self.estimates.estimate_model(self.model, context_length=context_length, slots=slots)

    async def fit(self, **more: Any) -> Any:
        given: dict[str, Any] = dict.fromkeys(("ram_bytes", "vram_bytes", "context_length", "slots"))
        return await self.estimates.report_fit(self.model, **(given | more))


@pytest.fixture
def host(db: Database, view: ClusterView, chat_gguf: Path) -> Host:
    return Host(db, view, chat_gguf.read_bytes())


async def test_a_header_is_fetched_once(host: Host) -> None:
    first = await host.estimate(slots=1)
    second = await host.estimate(slots=2)
    assert second.kv_cache_bytes == 2 * first.kv_cache_bytes
    assert len(host.hub.ranges) == 1
    # The context is the trained one at most.
    assert first.context_length == first.trained_context_length == 512
    assert (await host.estimate(context_length=100)).context_length == 100
    assert (await host.estimate(context_length=9999)).context_length == 512


async def test_a_cache_of_another_version_is_replaced(host: Host) -> None:
    [spec] = await host.estimates._registrations.resolve_files(host.model)
    async with host.db.write() as tx:
        await header_cache.put(tx, spec.sha256, b'{"of": "another version"}')
    await host.estimate()
    await host.estimate()
    assert len(host.hub.ranges) == 1


async def test_a_full_disk_costs_the_cache_alone(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(header_cache, "put", fail)
    await host.estimate()
    await host.estimate()
    assert len(host.hub.ranges) == 2


async def test_a_large_vocabulary_takes_a_second_request_and_no_third(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llb.cluster.memory_estimates.gguf.INITIAL_READ_BYTES", 1000)
    host.hub.content = write_chat_model(tmp_path / "m.gguf", vocab=2000).read_bytes()
    host.hub.size_bytes = len(host.hub.content)
    await host.estimate()
    assert host.hub.ranges[0] == 1000
    assert host.hub.ranges == sorted(set(host.hub.ranges))
    # A Hub that sends less than it says: an error, and no loop.
    host.model = structs.replace(host.model, recommended_filename="other.gguf")
    host.hub.content = host.hub.content[:500]
    with pytest.raises(errors.InvalidRequest, match="cannot be estimated"):
        await host.estimate()


@pytest.mark.parametrize(
    ("failure", "kind", "code"),
    [
        (HubUnreachable("away"), errors.HubUnavailable, "header_unreadable"),
        (HubGated("gated"), errors.InvalidRequest, "header_unreadable"),
    ],
)
async def test_a_header_that_cannot_be_read(
    host: Host, monkeypatch: pytest.MonkeyPatch, failure: Exception, kind: type[errors.LlbError], code: str
) -> None:
    files = await host.estimates._registrations.resolve_files(host.model)

    async def known_files(_model: Model) -> Any:
        return files

    monkeypatch.setattr(host.estimates._registrations, "known_files", known_files)
    host.hub.failure = failure
    with pytest.raises(kind) as refused:
        await host.estimate()
    assert getattr(refused.value.text, "code", None) == code
    assert await host.estimates.plan_context_length(host.model) is None


async def test_a_file_that_is_no_model(host: Host) -> None:
    host.hub.content = b"<html>" + bytes(9999)
    with pytest.raises(errors.InvalidRequest, match="The memory of model 'tiny' cannot be estimated"):
        await host.estimate()


async def test_this_host_or_one_that_is_described(host: Host) -> None:
    own = await host.fit()
    assert (own.fits, own.context_length, own.slots, own.devices) == (True, 256, 2, ())
    described = await host.fit(ram_bytes=64 * GB, vram_bytes=(24 * GB, 8 * GB), slots=1, context_length=128)
    assert [device.name for device in described.devices] == ["GPU0", "GPU1"]
    assert (described.slots, described.context_length) == (1, 128)
    assert not (await host.fit(ram_bytes=1)).fits
    host.estimates.set_load_defaults(slots=1, context_length=None)
    assert (await host.fit()).context_length == 512
    assert await host.estimates.plan_context_length(host.model) == 512


async def test_before_the_probe_nothing_is_known_of_this_host(host: Host) -> None:
    host.capacity = None
    with pytest.raises(errors.NoNodeAvailable, match="is being probed"):
        await host.fit()
    assert await host.estimates.plan_context_length(host.model) is None


async def test_metadata_of_a_model_that_is_not_registered_is_not_fetched(host: Host) -> None:
    assert await host.estimates.get_model_metadata(host.model) is None
    assert host.hub.ranges == []
