"""What a user sees of a model, derived from its registration and its replicas. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from llb.wire import ModelStatus, ReplicaReport, ReplicaState

_IN_PROGRESS = (ReplicaState.DOWNLOADING, ReplicaState.VERIFYING)


class ReplicaSnapshot(Struct, frozen=True, kw_only=True):
    """One replica: whether its node can be reached, and is to hold it (what it was to hold once lies there, unused)."""

    node_name: str
    online: bool
    assigned: bool = True
    report: ReplicaReport


class RegistrationSnapshot(Struct, frozen=True, kw_only=True):
    """What the status needs to know of a registration."""

    attempt: int
    resolved: bool
    has_assigned_node: bool  # at least one online node is to hold it
    has_online_node: bool = True  # at least one node is online
    error: str | None = None  # the resolution failed for good
    waiting_reason: str | None = None  # what the resolution waits for


class DerivedStatus(Struct, frozen=True, kw_only=True):
    """A model's status with its numbers; bytes, bytes a second, progress 0–1."""

    status: ModelStatus
    progress: float | None = None
    downloaded_bytes: int | None = None
    total_bytes: int | None = None
    bytes_per_second: float | None = None
    error: str | None = None
    available_nodes: int = 0

    @property
    def eta_s(self) -> float | None:
        """Seconds until the download ends at the present rate, None when that cannot be said."""
        if not self.bytes_per_second or self.total_bytes is None or self.downloaded_bytes is None:
            return None
        return (self.total_bytes - self.downloaded_bytes) / self.bytes_per_second


def derive_status(
    registration: RegistrationSnapshot | None, replicas: Sequence[ReplicaSnapshot]
) -> DerivedStatus:
    """The status of one model: DESIGN §4, "model"."""
    if registration is None:
        return DerivedStatus(status=ModelStatus.AVAILABLE)

    # What a node is not to hold any more (its memory was lowered) lies there, but cannot be used.
    online = [
        fact.report for fact in replicas if fact.online and (fact.assigned or not registration.resolved)
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

    moving = [report for report in online if report.state in _IN_PROGRESS]
    if moving:
        furthest = max(moving, key=lambda report: report.progress)
        return DerivedStatus(
            status=ModelStatus.DOWNLOADING,
            progress=furthest.progress,
            downloaded_bytes=furthest.downloaded_bytes,
            total_bytes=furthest.total_bytes,
            bytes_per_second=furthest.bytes_per_second,
            error=furthest.error,
        )

    # An error of an earlier attempt is history: the retry is on its way.
    current = [report for report in online if report.attempt >= registration.attempt]
    failed = [report for report in current if report.state is ReplicaState.ERROR]
    if failed and len(failed) == len(current):
        return DerivedStatus(status=ModelStatus.ERROR, error=failed[0].error)
    return DerivedStatus(
        status=ModelStatus.REGISTERED,
        progress=0.0,
        error=_waiting_reason(registration, replicas, bool(online)),
    )


def _waiting_reason(
    registration: RegistrationSnapshot, replicas: Sequence[ReplicaSnapshot], has_online_replica: bool
) -> str | None:
    """What a registered model waits for, as a sentence; None when it is about to begin."""
    if registration.waiting_reason is not None:
        return registration.waiting_reason
    away = sorted(
        fact.node_name for fact in replicas if not fact.online and fact.report.state is ReplicaState.READY
    )
    if away and not has_online_replica:
        return f"waiting for node {away[0]} to return"
    if registration.resolved and not registration.has_assigned_node and not registration.has_online_node:
        return "waiting for a node to be online"
    if registration.resolved and not registration.has_assigned_node:
        return "waiting for a node with enough memory and disk"
    return None
