"""Downloads that a person controls: cancelled, discarded, ordered, limited; and load options."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from llb.wire import ModelStatusChanged
from tests.conftest import TINY_BYTES, BalancerFactory, start_balancer
from tests.harness import RunningBalancer, write_catalog
from tests.hub import HubStandIn, tiny_gguf

STOPPED_AT = 200_000


async def cancel_pull(llb: RunningBalancer, hub: HubStandIn) -> None:
    """Cancel a pull of `tiny` after `STOPPED_AT` bytes, and wait until its node has."""
    stall = hub.faults.stall(after=STOPPED_AT)
    await llb.register_model("tiny")
    await llb.wait_until(lambda: (llb.app.cluster.view.status_of("tiny").downloaded_bytes or 0) == STOPPED_AT)
    assert (await llb.http.delete("/api/models/tiny")).status_code == 204
    await llb.wait_until(lambda: "tiny" not in llb.app.cluster.view.registrations)
    stall.clear()


def is_resolved(llb: RunningBalancer, model_id: str) -> bool:
    return llb.app.cluster.view.registrations[model_id].resolved is not None


def partial_files(llb: RunningBalancer) -> list[Path]:
    return list((llb.home / "models").rglob("*.partial"))


async def test_a_cancelled_pull_is_seen_and_can_be_discarded(llb: RunningBalancer, hub: HubStandIn) -> None:
    events = llb.app.base.event_bus.subscribe(1000)
    await cancel_pull(llb, hub)
    told = [event for event in events._queue if isinstance(event, ModelStatusChanged)]
    assert told[-1].partial_bytes == STOPPED_AT
    [node] = (await llb.http.get("/api/nodes")).json()["nodes"]
    assert node["partials"] == [{"model_id": "tiny", "size_bytes": STOPPED_AT}]
    model = await llb.get_model("tiny")
    assert model["status"] == "Available"
    assert model["partial"] == {
        "downloaded_bytes": STOPPED_AT,
        "total_bytes": TINY_BYTES,
        "disk_bytes": STOPPED_AT,
        "nodes": [{"node_id": node["id"], "node_name": node["name"], "size_bytes": STOPPED_AT}],
    }
    [download] = (await llb.http.get("/api/downloads")).json()["downloads"]
    assert (download["model_id"], download["state"]) == ("tiny", "paused")

    # As before: a model that is not registered cannot be deleted.
    assert (await llb.http.delete("/api/models/tiny")).status_code == 404
    assert (await llb.http.delete("/api/models/tiny?discard=maybe")).status_code == 400
    assert len(partial_files(llb)) == 1
    assert (await llb.http.delete("/api/models/tiny?discard=true")).status_code == 204
    assert partial_files(llb) == []
    assert (await llb.get_model("tiny"))["partial"] is None
    assert (await llb.http.delete("/api/models/tiny?discard=true")).status_code == 404


async def test_a_running_pull_can_be_cancelled_and_discarded_at_once(
    llb: RunningBalancer, hub: HubStandIn
) -> None:
    stall = hub.faults.stall(after=STOPPED_AT)
    await llb.register_model("tiny")
    await llb.wait_until(lambda: (llb.app.cluster.view.status_of("tiny").downloaded_bytes or 0) == STOPPED_AT)
    assert (await llb.http.delete("/api/models/tiny?discard=true")).status_code == 204
    await llb.wait_until(lambda: "tiny" not in llb.app.cluster.view.registrations)
    assert partial_files(llb) == []
    assert (await llb.get_model("tiny"))["partial"] is None
    stall.clear()
    # A later pull is kept again when it is cancelled.
    await cancel_pull(llb, hub)
    assert len(partial_files(llb)) == 1


async def test_what_is_kept_is_seen_after_a_restart(llb: RunningBalancer, hub: HubStandIn) -> None:
    await cancel_pull(llb, hub)
    await llb.stop()
    await llb.start()
    await llb.wait_until_online()
    kept = (await llb.get_model("tiny"))["partial"]
    assert kept["disk_bytes"] == STOPPED_AT
    await llb.pull_model("tiny")
    assert (await llb.get_model("tiny"))["partial"] is None


async def test_the_order_decides_which_download_is_next(
    make_llb: BalancerFactory, hub: HubStandIn, tmp_path: Path
) -> None:
    names = ("first", "second", "third")
    for name in names:
        hub.add_repo(f"test/{name}", {f"{name}.gguf": tiny_gguf(TINY_BYTES, seed=name)})
    entries = ({"id": name, "size_bytes": TINY_BYTES} for name in names)
    catalog = write_catalog(tmp_path / "three.json", *entries)
    llb = await start_balancer(make_llb(catalog=catalog, max_downloads=1))
    stall = hub.faults.stall(after=1000)
    for name in names:
        await llb.register_model(name)
        await llb.wait_until(partial(is_resolved, llb, name))
    await llb.wait_for_status("first", "Downloading")
    await llb.wait_until(lambda: {"second", "third"} <= llb.app.agent._replicas.keys())
    answer = await llb.http.patch("/api/downloads", json={"order": ["third", "first"]})
    assert [each["model_id"] for each in answer.json()["downloads"]] == ["third", "first", "second"]
    await llb.wait_until(lambda: llb.app.agent._replicas["third"].rank == 0)
    hub.clear_requests()
    stall.clear()
    for name in names:
        await llb.wait_for_status(name, "Ready")
    asked = [request.path.rsplit("/", 1)[-1] for request in hub.byte_requests()]
    assert asked.index("third.gguf") < asked.index("second.gguf")


async def test_the_rate_limit_is_kept_and_reaches_the_node(llb: RunningBalancer) -> None:
    limiter = llb.app.agent._replica_worker._bandwidth_limiter
    assert (await llb.http.get("/api/downloads")).json() == {"downloads": [], "rate_limit": None}
    answer = await llb.http.patch("/api/downloads", json={"rate_limit": 5_000_000})
    assert answer.json()["rate_limit"] == 5_000_000
    await llb.wait_until(lambda: limiter._bytes_per_s == 5_000_000)
    for invalid in ({"rate_limit": 1}, {"rate_limit": 10**15}, {"rate_limit": "fast"}, {"rate": 1}):
        assert (await llb.http.patch("/api/downloads", json=invalid)).status_code == 400
    assert (await llb.http.patch("/api/downloads", json={"order": ["nothing"]})).status_code == 404
    await llb.stop()
    await llb.start()
    await llb.wait_until_online()
    assert (await llb.http.get("/api/downloads")).json()["rate_limit"] == 5_000_000


async def test_who_may_only_read_changes_nothing(llb: RunningBalancer) -> None:
    key = await llb.create_key("models:read")
    headers = {"Authorization": f"Bearer {key}"}
    assert (await llb.http.get("/api/downloads", headers=headers)).status_code == 200
    assert (await llb.http.patch("/api/downloads", headers=headers, json={})).status_code == 403
    assert (await llb.http.post("/api/models/tiny/load", headers=headers, json={})).status_code == 403


# --- load options ------------------------------------------------------------------------------------


@pytest.fixture
async def chat(
    make_llb: BalancerFactory, hub: HubStandIn, chat_gguf: Path, tmp_path: Path
) -> RunningBalancer:
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    entry = {"id": "chat", "size_bytes": chat_gguf.stat().st_size, "context_length": 512}
    llb = await start_balancer(make_llb(catalog=write_catalog(tmp_path / "chat.json", entry)))
    await llb.pull_model("chat")
    return llb


async def test_a_model_is_loaded_with_options_that_are_kept(chat: RunningBalancer) -> None:
    llb = chat
    memory = (await llb.get_model("chat"))["memory"]
    assert memory["minimum_bytes"] > 0
    assert {memory[name] for name in ("reserved_bytes", "used_bytes", "slots", "context_length")} == {None}

    options = {"context_length": 256, "slots": 2, "keep_alive": 3600.0}
    answer = await llb.http.post("/api/models/chat/load", json={"options": options})
    assert answer.status_code == 200, answer.text
    loaded = answer.json()
    assert loaded["options"] == options
    assert (loaded["memory"]["slots"], loaded["memory"]["context_length"]) == (2, 256)
    [report] = llb.app.local_node.engine_pool.engine_reports()
    assert loaded["memory"]["reserved_bytes"] == report.memory_bytes
    fit = (await llb.http.get("/api/models/chat/fit?context_length=256&slots=2")).json()
    assert fit["host"]["total_bytes"] == report.memory_bytes

    # With others it is loaded again; without any it keeps those that it has.
    answer = await llb.http.post("/api/models/chat/load", json={"options": {"slots": 1}})
    assert answer.json()["memory"]["slots"] == 1
    assert (await llb.http.post("/api/models/chat/unload")).status_code == 204
    answer = await llb.http.post("/api/models/chat/load", json={})
    assert (answer.json()["options"]["slots"], answer.json()["memory"]["slots"]) == (1, 1)
    await llb.stop()
    await llb.start()
    await llb.wait_until_online()
    assert (await llb.get_model("chat"))["options"]["slots"] == 1
    answer = await llb.http.patch("/api/models/chat", json={"options": None})
    assert answer.json()["options"] is None


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"options": {"slots": 0}}, "options.slots"),
        ({"options": {"slots": 65}}, "options.slots"),
        ({"options": {"context_length": 0}}, "options.context_length"),
        ({"options": {"keep_alive": -2}}, "options.keep_alive"),
        ({"options": {"gpu": 1}}, None),
        ({"placement": {}}, "placement"),
        ({"placement": {"nodes": ["nobody"]}}, "placement.nodes"),
    ],
)
async def test_options_have_bounds(chat: RunningBalancer, body: dict[str, object], param: str | None) -> None:
    answer = await chat.http.patch("/api/models/chat", json=body)
    assert answer.status_code == 400, answer.text
    if param is not None:
        assert answer.json()["error"]["param"] == param


async def test_what_is_not_here_cannot_be_loaded(llb: RunningBalancer) -> None:
    assert (await llb.http.post("/api/models/tiny/load", json={})).status_code == 404
    assert (await llb.http.post("/api/models/nothing/load", json={})).status_code == 404
    await llb.pull_model("tiny")
    answer = await llb.http.post("/api/models/tiny/load", json={"nodes": ["nobody"]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert llb.app.local_node.engine_pool.engine_reports() == ()
