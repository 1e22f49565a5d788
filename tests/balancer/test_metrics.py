"""`/metrics` of a real balancer: values, what they must not reveal, the documentation and the dashboard."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from llb.gateway.observability.metrics import MAX_ENDPOINT_MODELS, Metrics
from llb.gateway.observability.request_log import RequestRecord
from llb.security.permissions import Principal, PrincipalKind
from llb.wire import EngineState, ReplicaReport, ReplicaState, Role
from tests.conftest import BalancerFactory
from tests.harness import RunningBalancer, wait_until, write_catalog
from tests.hub import HubStandIn

DOCUMENTS = Path(__file__).parents[2] / "docs"
DOCS = (DOCUMENTS / "metrics.md").read_text(encoding="utf-8")
DASHBOARD = (DOCUMENTS / "grafana.json").read_text(encoding="utf-8")


@pytest.fixture
async def llb_metrics(llb: RunningBalancer) -> Metrics:
    return llb.app.gateway.metrics


async def samples(llb: RunningBalancer) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = await llb.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


async def test_requests_are_counted(
    make_llb: BalancerFactory, hub: HubStandIn, chat_gguf: Path, tmp_path: Path
) -> None:
    hub.add_repo("test/chat", {"chat.gguf": chat_gguf})
    catalog = write_catalog(tmp_path / "list.json", {"id": "chat", "size_bytes": chat_gguf.stat().st_size})
    llb = await make_llb(catalog=catalog, name="attic").start()
    await llb.wait_until_online()
    await llb.pull_model("chat")
    key = await llb.create_key()
    question = {"model": "chat", "messages": [{"role": "user", "content": "A secret word"}], "max_tokens": 4}
    async with httpx.AsyncClient(
        base_url=llb.url, headers={"Authorization": f"Bearer {key}"}, timeout=60
    ) as client:
        for stream in (False, True):
            answer = await client.post(
                "/v1/chat/completions", json={**question, "stream": stream}, timeout=60
            )
            assert answer.status_code == 200
        assert (
            await client.post("/v1/chat/completions", json={**question, "model": "made-up"})
        ).status_code == 404
    await llb.app.gateway.history.flush()
    # The engine's log arrives in parallel with its answers, and its report of being idle after them.
    await llb.wait_until(
        lambda: any(
            report.memory_ratio and report.state is EngineState.READY
            for node in llb.app.cluster.view.nodes.values()
            for report in node.engines.values()
        )
    )

    now = await samples(llb)
    chat = (("gen_ai_operation_name", "chat"), ("gen_ai_request_model", "chat"))
    succeeded = (("error_type", ""), *chat)
    assert now[("gen_ai_server_request_duration_seconds_count", succeeded)] == 2
    not_found = (
        ("error_type", "model_not_found"),
        ("gen_ai_operation_name", "chat"),
        ("gen_ai_request_model", ""),
    )
    assert now[("gen_ai_server_request_duration_seconds_count", not_found)] == 1
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
    assert now[("llb_engine_load_seconds_count", (("model", "chat"), ("node", "attic")))] == 1
    assert now[("llb_engine_load_seconds_sum", (("model", "chat"), ("node", "attic")))] > 0
    assert now[("llb_engine_memory_ratio", (("model", "chat"), ("node", "attic")))] == pytest.approx(
        1, abs=0.1
    )
    assert now[("llb_downloads_total", (("node", "attic"), ("outcome", "ready")))] == 1
    assert now[("llb_downloaded_bytes_total", (("node", "attic"),))] == chat_gguf.stat().st_size

    text = (await llb.http.get("/metrics")).text
    for word in ("made-up", "secret", "127.0.0.1", "admin", key, key[:10], str(llb.home)):
        assert word not in text


async def test_downloads_and_event_loop_lag_are_measured(llb: RunningBalancer, hub: HubStandIn) -> None:
    hub.faults.stall(after=150_000)
    assert (await llb.register_model("tiny")).status_code == 202
    await llb.wait_until(lambda: (llb.app.cluster.view.status_of("tiny").downloaded_bytes or 0) == 150_000)
    now = await samples(llb)
    [node] = [
        value
        for name, labels in now
        for key, value in labels
        if name == "llb_node_draining" and key == "node"
    ]
    assert now[("llb_download_progress", (("model", "tiny"), ("node", node)))] == 0.5

    def lag() -> float:
        found = llb.app.gateway.metrics.registry.get_sample_value("llb_event_loop_lag_seconds_count")
        return found or 0

    await wait_until(lag)


async def test_only_administrators_and_local_programs_may_read_them(llb: RunningBalancer) -> None:
    async with httpx.AsyncClient(base_url=llb.url, timeout=60) as nobody:
        assert (await nobody.get("/metrics")).status_code == 200
        for headers, status in (
            ({"Origin": "http://elsewhere.example"}, 401),
            ({"X-Forwarded-For": "192.0.2.1"}, 401),
            ({"Authorization": f"Bearer {await llb.create_key('models:read')}"}, 403),
            ({"Authorization": f"Bearer {await llb.create_key('admin')}"}, 200),
        ):
            assert (await nobody.get("/metrics", headers=headers)).status_code == status


async def test_queue_waits_count_queued_requests_only(llb_metrics: Metrics) -> None:
    principal = Principal(kind=PrincipalKind.KEY, id="k", role=Role.USER)
    for node_id, queued_s, error in (
        ("attic", 0.0, None),
        (None, 60.0, "queue_timeout"),
        (None, 3.0, "client_closed"),
        (None, 0.00001, "queue_full"),
        (None, 0.0, "rate_limit_exceeded"),
    ):
        record = RequestRecord(1, "r", principal, "/v1/chat/completions", 0.0)
        record.model_id, record.node_id, record.queued_s, record.error_code = "m", node_id, queued_s, error
        llb_metrics.record_requests([record])
    sample = llb_metrics.registry.get_sample_value
    assert sample("llb_queue_wait_seconds_count", {"model": "m"}) == 3
    assert sample("llb_queue_wait_seconds_sum", {"model": "m"}) == 63
    for error in ("queue_full", "rate_limit_exceeded"):
        labels = {"gen_ai_operation_name": "chat", "gen_ai_request_model": "m", "error_type": error}
        assert sample("gen_ai_server_request_duration_seconds_count", labels) == 1


async def test_models_of_endpoints_have_a_bounded_number_of_series(llb_metrics: Metrics) -> None:
    """An endpoint may have thousands of models, and any key may ask each of them."""
    principal = Principal(kind=PrincipalKind.KEY, id="k", role=Role.USER)
    asked = [*(f"cloud/{number}" for number in range(3 * MAX_ENDPOINT_MODELS)), "tiny"]
    for model_id in asked:
        record = RequestRecord(1, "r", principal, "/v1/chat/completions", 0.0)
        record.model_id = model_id
        llb_metrics.record_requests([record])
    lines = [
        line
        for line in llb_metrics.render().decode().splitlines()
        if line.startswith("gen_ai_server_request_duration_seconds_count")
    ]
    counts = {re.search('model="([^"]*)"', line)[1]: float(line.split()[-1]) for line in lines}  # type: ignore[index]
    assert len(counts) == MAX_ENDPOINT_MODELS + 2
    assert counts["tiny"] == 1, "a model of the catalogue keeps its name"
    assert sum(counts.values()) == len(asked)


async def test_only_downloaded_bytes_are_counted(llb_metrics: Metrics) -> None:
    def report(state: ReplicaState, downloaded_bytes: int, node_id: str = "n") -> None:
        llb_metrics.record_replica(
            node_id, ReplicaReport(model_id="m", attempt=1, state=state, downloaded_bytes=downloaded_bytes)
        )

    # Downloaded before this start.
    report(ReplicaState.READY, 900, "old")
    for state, downloaded_bytes in (
        (ReplicaState.WANTED, 0),
        # Left by an earlier attempt.
        (ReplicaState.DOWNLOADING, 500),
        (ReplicaState.DOWNLOADING, 700),
        # The rest was corrupt.
        (ReplicaState.DOWNLOADING, 100),
        (ReplicaState.VERIFYING, 900),
        (ReplicaState.READY, 900),
        (ReplicaState.DELETING, 900),
        (ReplicaState.GONE, 0),
        (ReplicaState.DOWNLOADING, 0),
        (ReplicaState.ERROR, 10),
    ):
        report(state, downloaded_bytes)
    sample = llb_metrics.registry.get_sample_value
    assert sample("llb_downloaded_bytes_total", {"node": "n"}) == 200 + 800 + 10
    assert sample("llb_downloads_total", {"node": "n", "outcome": "ready"}) == 1
    assert sample("llb_downloads_total", {"node": "n", "outcome": "error"}) == 1
    assert sample("llb_downloads_total", {"node": "old", "outcome": "ready"}) is None


async def test_replicas_of_a_removed_node_are_forgotten(llb_metrics: Metrics) -> None:
    def report(state: ReplicaState, downloaded_bytes: int) -> None:
        llb_metrics.record_replica(
            "n", ReplicaReport(model_id="m", attempt=1, state=state, downloaded_bytes=downloaded_bytes)
        )

    report(ReplicaState.DOWNLOADING, 0)
    report(ReplicaState.DOWNLOADING, 500)
    llb_metrics.forget_node("n")
    # The node has joined again with its files.
    report(ReplicaState.READY, 900)
    sample = llb_metrics.registry.get_sample_value
    assert sample("llb_downloaded_bytes_total", {"node": "n"}) == 500
    assert sample("llb_downloads_total", {"node": "n", "outcome": "ready"}) is None


# --- documentation -----------------------------------------------------------------------------------


def families_of(text: str) -> dict[str, str]:
    """Return the type of every metric, by the name that queries use."""
    return {
        family.name + ("_total" if family.type == "counter" else ""): family.type
        for family in text_string_to_metric_families(text)
    }


def documented() -> dict[str, set[str]]:
    """Return the labels of every metric in the table of docs/metrics.md."""
    rows = [line.split("|")[1:3] for line in DOCS.splitlines() if line.startswith("| `")]
    return {
        name: set(re.findall(r"`(\w+)`", labels))
        for names, labels in rows
        for name in re.findall(r"`((?:llb|gen_ai_server)_[a-z_]+)`", names)
    }


def test_every_metric_is_documented(llb_metrics: Metrics) -> None:
    families = families_of(llb_metrics.render().decode())
    assert {name for name in families if not name.startswith("process_")} == documented().keys()


async def test_the_documented_labels_are_complete(llb: RunningBalancer) -> None:
    await llb.wait_until_online()
    await llb.pull_model("tiny")
    documented_labels = documented()
    text = (await llb.http.get("/metrics")).text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not sample.name.startswith("process_"):
                name = family.name + ("_total" if family.type == "counter" else "")
                assert sample.labels.keys() - {"le"} == documented_labels[name], sample.name


def queries() -> list[str]:
    """Return all Prometheus queries of the dashboard."""
    board = json.loads(DASHBOARD)
    expressions = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    return expressions + [
        each["query"]["query"] for each in board["templating"]["list"] if each["type"] == "query"
    ]


METRIC = re.compile(r"\b(?:llb|gen_ai_server|process)_[a-z_]+\b(?!\s*[=!])")


def test_the_dashboard_queries_existing_metrics(llb_metrics: Metrics) -> None:
    families = families_of(llb_metrics.render().decode())
    labels = documented()
    queried = set()
    for query in queries():
        found = METRIC.findall(query)
        assert found, query
        names = set()
        for name in found:
            base = re.sub(r"_(bucket|count|sum)$", "", name)
            is_histogram = families.get(base) == "histogram"
            assert (name != base) if is_histogram else (name in families), query
            names.add(base if is_histogram else name)
        queried |= names
        used = {label for group in re.findall(r"by \(([^)]*)\)", query) for label in re.split(r",\s*", group)}
        used |= {
            label
            for selector in re.findall(r"\{([^}]*)\}", query)
            for label in re.findall(r"(\w+)[=!]", selector)
        }
        used |= set(re.findall(r"label_values\([^,]+, (\w+)\)", query))
        assert used <= {"le"}.union(*(labels.get(name, set()) for name in names)), query
        assert query.count("(") == query.count(")")
    # Every metric has a panel.
    assert labels.keys() <= queried


def test_the_dashboard_can_be_imported() -> None:
    board = json.loads(DASHBOARD)
    assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "model", "node"}
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in board["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
    legends = [t["legendFormat"] for panel in board["panels"] for t in panel.get("targets", ())]
    assert not [legend for legend in legends if legend.count("{{") != legend.count("}}")]
