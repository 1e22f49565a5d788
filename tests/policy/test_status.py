"""Status policy: the status that a user sees."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llb.policy.status import RegistrationSnapshot, ReplicaSnapshot, derive_status
from llb.wire import ModelStatus, ReplicaReport, ReplicaState

S = ReplicaState


def replica(
    state: ReplicaState, *, online: bool = True, wanted: bool = True, attempt: int = 1, **report: Any
) -> ReplicaSnapshot:
    return ReplicaSnapshot(
        node_name="attic",
        online=online,
        assigned=wanted,
        report=ReplicaReport(model_id="m", attempt=attempt, state=state, total_bytes=100, **report),
    )


def registration(**changes: Any) -> RegistrationSnapshot:
    return RegistrationSnapshot(**{"attempt": 1, "resolved": True, "has_assigned_node": True, **changes})


@pytest.mark.parametrize(
    ("known", "replicas", "status", "error"),
    [
        (None, [], ModelStatus.AVAILABLE, None),
        (None, [replica(S.READY)], ModelStatus.AVAILABLE, None),
        (registration(), [], ModelStatus.REGISTERED, None),
        (registration(resolved=False, waiting_reason="waiting for the network: x"), [],
         ModelStatus.REGISTERED,
         "waiting for the network: x"),
        (registration(has_assigned_node=False), [], ModelStatus.REGISTERED,
         "waiting for a node with enough memory and disk"),
        (registration(has_assigned_node=False, has_online_node=False), [], ModelStatus.REGISTERED,
         "waiting for a node to be online"),
        (registration(error="gated"), [], ModelStatus.ERROR, "gated"),
        (registration(), [replica(S.WANTED)], ModelStatus.REGISTERED, None),
        (registration(), [replica(S.DOWNLOADING)], ModelStatus.DOWNLOADING, None),
        (registration(), [replica(S.VERIFYING)], ModelStatus.DOWNLOADING, None),
        (registration(), [replica(S.DOWNLOADING, error="waiting for the network: y")],
         ModelStatus.DOWNLOADING,
         "waiting for the network: y"),
        (registration(), [replica(S.READY)], ModelStatus.READY, None),
        (registration(), [replica(S.READY), replica(S.ERROR, error="disk")], ModelStatus.READY, None),
        (registration(), [replica(S.DOWNLOADING), replica(S.ERROR, error="disk")], ModelStatus.DOWNLOADING,
         None),
        (registration(), [replica(S.ERROR, error="disk")], ModelStatus.ERROR, "disk"),
        (registration(), [replica(S.WANTED), replica(S.ERROR, error="disk")], ModelStatus.REGISTERED, None),
        (registration(attempt=2), [replica(S.ERROR, error="old")], ModelStatus.REGISTERED, None),
        (registration(has_assigned_node=False), [replica(S.READY, wanted=False)], ModelStatus.REGISTERED,
         "waiting for a node with enough memory and disk"),
        (registration(), [replica(S.READY, wanted=False), replica(S.DOWNLOADING)], ModelStatus.DOWNLOADING,
         None),
        (registration(), [replica(S.READY, online=False)], ModelStatus.REGISTERED,
         "waiting for node attic to return"),
        (registration(), [replica(S.DOWNLOADING, online=False)], ModelStatus.REGISTERED, None),
        (registration(), [replica(S.READY, online=False), replica(S.WANTED)], ModelStatus.REGISTERED, None),
    ],
)  # fmt: skip
def test_status(
    known: RegistrationSnapshot | None,
    replicas: list[ReplicaSnapshot],
    status: ModelStatus,
    error: str | None,
) -> None:
    derived = derive_status(known, replicas)
    assert (derived.status, derived.error) == (status, error)


def test_a_model_that_is_ready_or_has_not_begun_says_so_in_numbers() -> None:
    ready = derive_status(registration(), [replica(S.READY), replica(S.READY)])
    assert (ready.progress, ready.downloaded_bytes, ready.total_bytes, ready.available_nodes) == (
        1,
        100,
        100,
        2,
    )
    awaited = derive_status(registration(), [replica(S.WANTED)])
    assert (awaited.progress, awaited.downloaded_bytes, awaited.total_bytes) == (0, None, None)


def test_the_furthest_download_is_shown() -> None:
    derived = derive_status(
        registration(),
        [
            replica(S.DOWNLOADING, downloaded_bytes=20, bytes_per_second=1.0),
            replica(S.DOWNLOADING, downloaded_bytes=45, bytes_per_second=5.0),
            replica(S.DOWNLOADING, downloaded_bytes=90, online=False),
        ],
    )
    assert (derived.progress, derived.downloaded_bytes, derived.total_bytes) == (0.45, 45, 100)
    assert derived.eta_s == 11.0


def test_ready_counts_the_nodes_that_can_answer() -> None:
    derived = derive_status(
        registration(),
        [
            replica(S.READY),
            replica(S.READY),
            replica(S.READY, online=False),
            replica(S.READY, wanted=False),
            replica(S.ERROR),
        ],
    )
    assert derived.available_nodes == 2
    assert derived.progress == 1.0


facts = st.builds(
    replica,
    st.sampled_from(S),
    online=st.booleans(),
    wanted=st.booleans(),
    attempt=st.integers(1, 2),
    downloaded_bytes=st.integers(0, 100),
)


@given(st.lists(facts, max_size=5), st.booleans())
def test_what_can_be_used_is_never_hidden(replicas: list[ReplicaSnapshot], resolved: bool) -> None:
    placed = any(fact.online and fact.assigned for fact in replicas)
    derived = derive_status(registration(resolved=resolved, has_assigned_node=placed), replicas)
    usable = any(
        fact.online and fact.report.state is S.READY and (fact.assigned or not resolved) for fact in replicas
    )
    assert (derived.status is ModelStatus.READY) == usable == (derived.available_nodes > 0)
    assert derived.progress is None or 0 <= derived.progress <= 1
