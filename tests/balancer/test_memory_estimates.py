"""Memory estimates of models that are not pulled, from the header of their file."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec import structs

from llb.hardware.devices import VRAM_MARGIN_BYTES
from llb.store.tables.registrations import RegistrationState
from llb.wire import DraftFit, DraftState
from tests.conftest import BalancerFactory
from tests.harness import RunningBalancer, write_catalog
from tests.hub import HubStandIn


@pytest.fixture
async def llb(make_llb: BalancerFactory, hub: HubStandIn, smollm2: Path, tmp_path: Path) -> RunningBalancer:
    hub.add_repo("test/smollm2", {"smollm2.gguf": smollm2})
    catalog = write_catalog(tmp_path / "c.json", {"id": "smollm2", "size_bytes": smollm2.stat().st_size},
                            {"id": "tiny", "size_bytes": 300_000})  # fmt: skip
    started = await make_llb(catalog=catalog).start()
    await started.wait_until_online()
    return started


async def test_the_header_is_read_with_one_range_request_and_cached(
    llb: RunningBalancer, hub: HubStandIn
) -> None:
    answer = (await llb.http.get("/api/models/smollm2/memory?context_length=4096&slots=2")).json()
    assert (answer["context_length"], answer["slots"], answer["trained_context_length"]) == (4096, 2, 8192)
    # 30 layers × (K + V) × 3 heads × 64 values of 2 bytes × 4096 tokens × 2 slots.
    assert answer["kv_cache_bytes"] == 30 * 2 * 3 * 64 * 2 * 4096 * 2
    assert answer["weights_bytes"] > 90_000_000
    assert answer["fit"]["verdict"] == "fits"
    [request] = hub.byte_requests()
    assert request.bytes_sent <= 8 * 2**20
    more = (await llb.http.get("/api/models/smollm2/memory?context_length=8192&slots=2")).json()
    assert more["kv_cache_bytes"] == 2 * answer["kv_cache_bytes"]
    assert len(hub.byte_requests()) == 1


async def test_the_context_is_limited_to_the_trained_one(llb: RunningBalancer) -> None:
    answer = (await llb.http.get("/api/models/smollm2/memory?context_length=999999")).json()
    assert answer["context_length"] == 8192


@pytest.mark.parametrize("query", ["slots=0", "slots=x", "context_length=-1", "slots=65"])
async def test_invalid_parameters_are_rejected(llb: RunningBalancer, query: str) -> None:
    answer = await llb.http.get(f"/api/models/smollm2/memory?{query}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


async def test_an_unreachable_hub_is_an_error(llb: RunningBalancer, hub: HubStandIn) -> None:
    hub.stop_listening()
    answer = await llb.http.get("/api/models/smollm2/memory")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "hub_unreachable")
    assert "Hub" in answer.json()["error"]["message"]


async def test_the_estimate_of_a_pulled_model_needs_no_hub(llb: RunningBalancer, hub: HubStandIn) -> None:
    await llb.pull_model("smollm2")
    first = (await llb.http.get("/api/models/smollm2/memory")).json()
    hub.stop_listening()
    assert (await llb.http.get("/api/models/smollm2/memory")).json() == first


async def test_the_fit_on_this_host_and_on_a_described_one(llb: RunningBalancer) -> None:
    path = "/api/models/smollm2/fit"
    own = (await llb.http.get(path)).json()
    assert (own["model"], own["fits"], own["slots"]) == ("smollm2", True, 4)
    assert own["host"]["total_bytes"] > own["host"]["weights_bytes"] > 90_000_000
    card = (await llb.http.get(f"{path}?vram=24GB,8GB&ram=32GB&context_length=2048&slots=2")).json()
    assert [device["layers"] for device in card["devices"]] == [0, 31]
    assert (card["context_length"], card["slots"], card["reason"]) == (2048, 2, None)
    assert card["devices"][1]["limit_bytes"] == 8 * 10**9 - VRAM_MARGIN_BYTES
    tiny = (await llb.http.get(f"{path}?ram=200MB")).json()
    assert (tiny["fits"], tiny["context_length"], tiny["devices"]) == (False, 0, [])
    assert "it needs" in tiny["reason"]


async def test_a_draft_model_counts_where_it_is(llb: RunningBalancer) -> None:
    estimates = llb.app.cluster.memory_estimates
    model = llb.app.cluster.view.get_model("smollm2")
    assert model is not None

    async def report(**changes: object) -> tuple[DraftFit | None, int]:
        made = await estimates.report_fit(
            structs.replace(model, **changes),
            ram_bytes=None,
            vram_bytes=None,
            context_length=512,
            slots=1,
        )
        return made.draft, made.host.total_bytes

    assert (plain := await report())[0] is None
    # The model itself has the vocabulary.
    missing, _ = await report(draft="smollm2")
    assert missing == DraftFit(model_id="smollm2", state=DraftState.MISSING)
    await llb.pull_model("smollm2")
    draft, total_bytes = await report(draft="smollm2")
    assert draft is not None
    assert (draft.state, draft.total_bytes) == (DraftState.USED, total_bytes - plain[1])
    assert draft.total_bytes > 100_000_000
    # As after a deletion that some node has not confirmed.
    registered = llb.app.cluster.view.registrations
    registered["smollm2"] = structs.replace(registered["smollm2"], state=RegistrationState.DELETING)
    assert (await report(draft="smollm2"))[0] == missing


@pytest.mark.parametrize("query", ["vram=x", "ram=0", "ram=1GB,2GB", "vram=8GB,", "slots=99"])
async def test_a_fit_with_invalid_parameters_is_rejected(llb: RunningBalancer, query: str) -> None:
    answer = await llb.http.get(f"/api/models/smollm2/fit?{query}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
