"""Metrics: what an ended request, a load and a download count as."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llb.cluster.view import ClusterView
from llb.gateway.admission.controller import AdmissionController
from llb.gateway.observability.metrics import MAX_ENDPOINT_MODELS, OTHER_MODELS, Metrics
from llb.gateway.observability.request_log import RequestRecord
from llb.gateway.spill.book import SpillBook
from llb.gateway.stream.usage_parser import Usage
from llb.security.permissions import Principal, PrincipalKind
from llb.store.database import Database
from llb.wire import ReplicaReport, ReplicaState, Role
from tests.gateway.endpoints.endpoint_fixture import make_registry

PRINCIPAL = Principal(kind=PrincipalKind.KEY, id="key", role=Role.USER)


class Counted(Metrics):
    """Metrics of a cluster without nodes, whose catalogue has the model `m`."""

    def __init__(self) -> None:
        view = SimpleNamespace(
            nodes={},
            get_model=lambda model_id: model_id if model_id == "m" else None,
            node_name_of=lambda node_id: f"host-{node_id}",
        )
        super().__init__(
            cast(ClusterView, view),
            AdmissionController(8, 1.0),
            make_registry(),
            SpillBook(cast(Database, None)),
        )

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        """The samples of a name, by the values of their labels in the order of the labels' names."""
        families = text_string_to_metric_families(self.render().decode())
        return {
            tuple(value for _, value in sorted(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
            if sample.name == name
        }


def record(endpoint: str = "/v1/chat/completions", **fields: Any) -> RequestRecord:
    made = RequestRecord(1, "r", PRINCIPAL, endpoint, 10.0, model_id="m", node_id="a")
    made.ended_at = 12.0
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def test_requests_count_with_their_operation_model_and_outcome() -> None:
    metrics = Counted()
    metrics.record_requests(
        [record(), record(), record("/api/embed", error_code="engine_failed"), record("/v1/later")]
    )
    assert metrics.values("gen_ai_server_request_duration_seconds_count") == {
        ("", "chat", "m"): 2, ("engine_failed", "embeddings", "m"): 1, ("", "later", "m"): 1
    }  # fmt: skip
    assert metrics.values("gen_ai_server_request_duration_seconds_sum")[("", "chat", "m")] == 4.0


def test_tokens_are_those_of_prompts_the_cache_and_answers() -> None:
    metrics = Counted()
    usage = Usage(prompt_tokens=10, completion_tokens=5, cached_tokens=4, decode_ms=400.0)
    metrics.record_requests([record(usage=usage), record(usage=Usage())])
    assert metrics.values("llb_tokens_total") == {
        ("m", "prompt"): 10, ("m", "cached"): 4, ("m", "completion"): 5
    }  # fmt: skip
    # Of each token after the first.
    assert metrics.values("gen_ai_server_time_per_output_token_seconds_sum") == {
        ("chat", "m"): pytest.approx(0.1)
    }


def test_one_token_has_no_time_between_tokens() -> None:
    metrics = Counted()
    metrics.record_requests([record(usage=Usage(prompt_tokens=1, completion_tokens=1, decode_ms=9.0))])
    assert metrics.values("gen_ai_server_time_per_output_token_seconds_count") == {}


@pytest.mark.parametrize(
    ("fields", "is_counted"),
    [
        ({}, True),
        ({"node_id": None, "endpoint_id": "box"}, True),
        # It left the queue.
        ({"node_id": None, "queued_s": 2.0, "error_code": "queue_timeout"}, True),
        ({"node_id": None, "queued_s": 2.0, "error_code": "client_closed"}, True),
        # It never was in one.
        ({"node_id": None, "error_code": "queue_full"}, False),
        ({"node_id": None, "error_code": "client_closed"}, False),
    ],
)
def test_only_a_request_that_could_wait_has_a_wait(fields: dict[str, Any], is_counted: bool) -> None:
    metrics = Counted()
    metrics.record_requests([record(**fields)])
    assert metrics.values("llb_queue_wait_seconds_count") == ({("m",): 1} if is_counted else {})


def test_the_overhead_is_the_time_here_without_queue_and_load() -> None:
    metrics = Counted()
    metrics.record_requests(
        [record(sent_at=11.5, queued_s=1.0, load_s=0.25), record(sent_at=10.0, queued_s=1.0)]
    )
    assert metrics.values("llb_relay_overhead_seconds_sum") == {(): pytest.approx(0.25)}
    assert metrics.values("llb_relay_overhead_seconds_count") == {(): 2}


def test_models_of_endpoints_have_a_bounded_number_of_series() -> None:
    metrics = Counted()
    names = [f"box/{number}" for number in range(MAX_ENDPOINT_MODELS + 2)]
    metrics.record_requests([record(model_id=name) for name in names])
    metrics.record_requests([record(model_id=name) for name in (names[0], names[-1], None)])
    counts = metrics.values("gen_ai_server_request_duration_seconds_count")
    assert len(counts) == MAX_ENDPOINT_MODELS + 2
    assert counts[("", "chat", names[0])] == 2
    assert counts[("", "chat", OTHER_MODELS)] == 3
    # None that exists was named.
    assert counts[("", "chat", "")] == 1


def test_costs_are_added_where_they_are_known() -> None:
    metrics = Counted()
    metrics.record_requests([record(cost_usd=cost) for cost in (0.5, None, 0.0, 0.25)])
    assert metrics.values("llb_cost_usd_total") == {("m",): 0.75}


def test_loads_that_failed_have_no_duration() -> None:
    metrics = Counted()
    metrics.record_load("a", "m", 3.0, failed=False)
    metrics.record_load("a", "m", 9.0, failed=True)
    assert metrics.values("llb_engine_load_seconds_sum") == {("m", "host-a"): 3.0}
    assert metrics.values("llb_engine_load_failures_total") == {("m", "host-a"): 1}


def report(state: ReplicaState, downloaded_bytes: int) -> ReplicaReport:
    return ReplicaReport(
        model_id="m", attempt=1, state=state, downloaded_bytes=downloaded_bytes, total_bytes=100
    )


def test_downloads_count_from_one_report_to_the_next() -> None:
    metrics = Counted()
    for state, size_bytes in (
        (ReplicaState.DOWNLOADING, 40),
        (ReplicaState.DOWNLOADING, 70),
        # Discarded, and downloaded again.
        (ReplicaState.DOWNLOADING, 10),
        (ReplicaState.VERIFYING, 100),
        (ReplicaState.READY, 100),
        (ReplicaState.READY, 100),
    ):
        metrics.record_replica("a", report(state, size_bytes))
    # The first report is the baseline: what came before it was counted by another process.
    assert metrics.values("llb_downloaded_bytes_total") == {("host-a",): 30 + 90}
    assert metrics.values("llb_downloads_total") == {("host-a", "ready"): 1}


@pytest.mark.parametrize("forgets", ["node", "replica"])
def test_a_replica_that_is_gone_begins_again(forgets: str) -> None:
    metrics = Counted()
    metrics.record_replica("a", report(ReplicaState.DOWNLOADING, 10))
    if forgets == "node":
        metrics.forget_node("a")
    else:
        metrics.record_replica("a", report(ReplicaState.GONE, 10))
    metrics.record_replica("a", report(ReplicaState.DOWNLOADING, 60))
    assert metrics.values("llb_downloaded_bytes_total").get(("host-a",), 0) == 0
