"""Status policy: the status of a model, derived from its registration and its replicas. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from llb.texts.coded_text import CodedText
from llb.wire import ModelStatus, ReplicaReport, ReplicaState

_IN_PROGRESS = (ReplicaState.DOWNLOADING, ReplicaState.VERIFYING)


class ReplicaSnapshot(Struct, frozen=True, kw_only=True):
    """Replica with the state of its node: connected, and still assigned to hold the model."""

    node_name: str
    online: bool
    assigned: bool = True
    report: ReplicaReport


class RegistrationSnapshot(Struct, frozen=True, kw_only=True):
    """Facts of a registration that determine the status."""

    attempt: int
    resolved: bool
    # At least one online node is assigned to hold the model.
    has_assigned_node: bool
    # At least one node is online.
    has_online_node: bool = True
    # The resolution of its files failed permanently.
    error: str | None = None
    # What the resolution of its files waits for.
    waiting_reason: str | None = None


class DerivedStatus(Struct, frozen=True, kw_only=True):
    """Status of a model with its numbers; progress is between 0 and 1."""

    status: ModelStatus
    progress: float | None = None
    downloaded_bytes: int | None = None
    total_bytes: int | None = None
    bytes_per_second: float | None = None
    error: str | None = None
    available_nodes: int = 0

    @property
    def eta_s(self) -> float | None:
        """Seconds until the download ends at the present rate, None if unknown."""
        if not self.bytes_per_second or self.total_bytes is None or self.downloaded_bytes is None:
            return None
        return (self.total_bytes - self.downloaded_bytes) / self.bytes_per_second


def derive_status(
    registration: RegistrationSnapshot | None, replicas: Sequence[ReplicaSnapshot]
) -> DerivedStatus:
    """Return the status of a model; `registration` is None if it is not registered."""
    if registration is None:
        return DerivedStatus(status=ModelStatus.AVAILABLE)

    # A replica of a node that is no longer assigned (its memory limit was lowered) cannot be used.
    online = [
        replica.report
        for replica in replicas
        if replica.online and (replica.assigned or not registration.resolved)
    ]
    ready = [report for report in online if report.state is ReplicaState.READY]
    if ready:
        return DerivedStatus(
            status=ModelStatus.READY,
            progress=1.0,
            downloaded_bytes=ready[0].total_bytes,
            total_bytes=ready[0].total_bytes,
            available_nodes=len(ready),
        )
    if registration.error is not None:
        return DerivedStatus(status=ModelStatus.ERROR, error=registration.error)

    in_progress = [report for report in online if report.state in _IN_PROGRESS]
    if in_progress:
        furthest = max(in_progress, key=lambda report: report.progress)
        return DerivedStatus(
            status=ModelStatus.DOWNLOADING,
            progress=furthest.progress,
            downloaded_bytes=furthest.downloaded_bytes,
            total_bytes=furthest.total_bytes,
            bytes_per_second=furthest.bytes_per_second,
            error=furthest.error_text,
        )

    # An error of an earlier attempt does not count: the retry has been requested.
    current = [report for report in online if report.attempt >= registration.attempt]
    failed = [report for report in current if report.state is ReplicaState.ERROR]
    if failed and len(failed) == len(current):
        return DerivedStatus(status=ModelStatus.ERROR, error=failed[0].error_text)
    return DerivedStatus(
        status=ModelStatus.REGISTERED,
        progress=0.0,
        error=_waiting_reason(registration, replicas, bool(online)),
    )


def _waiting_reason(
    registration: RegistrationSnapshot, replicas: Sequence[ReplicaSnapshot], has_online_replica: bool
) -> str | None:
    """Return what a registered model waits for, None if its download starts in a moment."""
    if registration.waiting_reason is not None:
        return registration.waiting_reason
    offline_nodes = sorted(
        replica.node_name
        for replica in replicas
        if not replica.online and replica.report.state is ReplicaState.READY
    )
    if offline_nodes and not has_online_replica:
        return CodedText("waiting_for_node", "waiting for node {node} to return", node=offline_nodes[0])
    if registration.resolved and not registration.has_assigned_node and not registration.has_online_node:
        return CodedText("waiting_for_any_node", "waiting for a node to be online")
    if registration.resolved and not registration.has_assigned_node:
        return CodedText("waiting_for_larger_node", "waiting for a node with enough memory and disk")
    return None
