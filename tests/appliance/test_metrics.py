"""`/metrics`: what Prometheus reads of a real appliance, and what it must never read."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from llb.gateway.metrics import Metrics
from tests.conftest import LlbMaker
from tests.harness import Llb, eventually, write_catalog
from tests.hub import HubStandIn

DOCS = (Path(__file__).parent.parent.parent / "docs/metrics.md").read_text(encoding="utf-8")


@pytest.fixture
async def llb_metrics(llb: Llb) -> Metrics:
    return llb.app.metrics


async def samples(llb: Llb) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = await llb.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_what_was_asked_is_counted(
    make_llb: LlbMaker, hub: HubStandIn, chat_gguf: Path, tmp_path: Path
) -> None:
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    catalog = write_catalog(tmp_path / "list.json", {"id": "chat", "size_bytes": chat_gguf.stat().st_size})
    llb = await make_llb(catalog=catalog, name="attic").start()
    await llb.online()
    await llb.pull("chat")
    key = await llb.new_key()
    question = {"model": "chat", "messages": [{"role": "user", "content": "A secret word"}], "max_tokens": 4}
    async with httpx.AsyncClient(base_url=llb.url, headers={"Authorization": f"Bearer {key}"}) as client:
        for stream in (False, True):
            answer = await client.post(
                "/v1/chat/completions", json={**question, "stream": stream}, timeout=60
            )
            assert answer.status_code == 200
        assert (
            await client.post("/v1/chat/completions", json={**question, "model": "made-up"})
        ).status_code == 404
    await llb.app.history.flush()

    now = await samples(llb)
    chat = (("gen_ai_operation_name", "chat"), ("gen_ai_request_model", "chat"))
    well = (("error_type", ""), *chat)
    assert now[("gen_ai_server_request_duration_seconds_count", well)] == 2
    lost = (
        ("error_type", "model_not_found"),
        ("gen_ai_operation_name", "chat"),
        ("gen_ai_request_model", ""),
    )
    assert now[("gen_ai_server_request_duration_seconds_count", lost)] == 1
    assert now[("gen_ai_server_time_to_first_token_seconds_count", chat)] == 2
    assert now[("gen_ai_server_time_per_output_token_seconds_count", chat)] == 2
    assert now[("llb_tokens_total", (("model", "chat"), ("type", "completion")))] == 8
    assert now[("llb_queue_wait_seconds_count", (("model", "chat"),))] == 2
    assert now[("llb_relay_overhead_seconds_count", ())] == 2
    assert now[("llb_relay_overhead_seconds_sum", ())] < 1
    assert now[("llb_slots", (("model", "chat"), ("node", "attic")))] == 4
    assert now[("llb_slots_busy", (("model", "chat"), ("node", "attic")))] == 0
    assert now[("llb_node_status", (("node", "attic"), ("status", "online")))] == 1
    assert now[("llb_engines", (("node", "attic"), ("state", "ready")))] == 1
    assert now[("llb_replicas", (("node", "attic"), ("state", "ready")))] == 1

    text = (await llb.http.get("/metrics")).text
    for word in ("made-up", "secret", "127.0.0.1", "admin", key, key[:10], str(llb.home)):
        assert word not in text


async def test_a_download_and_the_loop_are_seen(llb: Llb, hub: HubStandIn) -> None:
    hub.faults.stall(after=150_000)
    assert (await llb.register("tiny")).status_code == 202
    await llb.until(lambda: (llb.app.view.derived("tiny").downloaded_bytes or 0) == 150_000)
    now = await samples(llb)
    [node] = [
        value
        for name, labels in now
        for key, value in labels
        if name == "llb_node_draining" and key == "node"
    ]
    assert now[("llb_download_progress", (("model", "tiny"), ("node", node)))] == 0.5

    def lag() -> float:
        found = llb.app.metrics.registry.get_sample_value("llb_event_loop_lag_seconds_count")
        return found or 0

    await eventually(lag)


async def test_only_admins_and_this_host_read_them(llb: Llb) -> None:
    async with httpx.AsyncClient(base_url=llb.url) as nobody:
        assert (await nobody.get("/metrics")).status_code == 200
        for headers, status in (
            ({"Origin": "http://elsewhere.example"}, 401),
            ({"X-Forwarded-For": "192.0.2.1"}, 401),
            ({"Authorization": f"Bearer {await llb.new_key('models:read')}"}, 403),
            ({"Authorization": f"Bearer {await llb.new_key('admin')}"}, 200),
        ):
            assert (await nobody.get("/metrics", headers=headers)).status_code == status


def test_every_metric_is_documented(llb_metrics: Metrics) -> None:
    families = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(llb_metrics.text().decode())
        if not family.name.startswith("process_")
    }
    documented = {
        name
        for line in DOCS.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`((?:llb|gen_ai_server)_[a-z_]+)`", line.split("|")[1])
    }
    assert families == documented
