"""What a user sees of a model, derived from its registration and its replicas. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from llb.wire import ModelStatus, ReplicaReport, ReplicaState

_MOVING = (ReplicaState.DOWNLOADING, ReplicaState.VERIFYING)


class ReplicaFact(Struct, frozen=True, kw_only=True):
    """One replica: whether its node can be reached, and is to hold it (what it was to hold once lies there, unused)."""

    node_name: str
    online: bool
    wanted: bool = True
    report: ReplicaReport


class RegistrationFact(Struct, frozen=True, kw_only=True):
    """What the status needs to know of a registration."""

    attempt: int
    resolved: bool
    placed: bool  # at least one online node is to hold it
    reachable: bool = True  # at least one node is online
    error: str | None = None  # the resolution failed for good
    waiting: str | None = None  # what the resolution waits for


class Derived(Struct, frozen=True, kw_only=True):
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


def derive(registration: RegistrationFact | None, replicas: Sequence[ReplicaFact]) -> Derived:
    """The status of one model: DESIGN §4, "model"."""
    if registration is None:
        return Derived(status=ModelStatus.AVAILABLE)

    # What a node is not to hold any more (its memory was lowered) lies there, but cannot be used.
    online = [fact.report for fact in replicas if fact.online and (fact.wanted or not registration.resolved)]
    ready = [report for report in online if report.state is ReplicaState.READY]
    if ready:
        return Derived(
            status=ModelStatus.READY,
            progress=1.0,
            downloaded_bytes=ready[0].total_bytes,
            total_bytes=ready[0].total_bytes,
            available_nodes=len(ready),
        )
    if registration.error is not None:
        return Derived(status=ModelStatus.ERROR, error=registration.error)

    moving = [report for report in online if report.state in _MOVING]
    if moving:
        furthest = max(moving, key=lambda report: report.progress)
        return Derived(
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
        return Derived(status=ModelStatus.ERROR, error=failed[0].error)
    return Derived(
        status=ModelStatus.REGISTERED, progress=0.0, error=_awaited(registration, replicas, bool(online))
    )


def _awaited(registration: RegistrationFact, replicas: Sequence[ReplicaFact], heard: bool) -> str | None:
    """What a registered model waits for, as a sentence; None when it is about to begin."""
    if registration.waiting is not None:
        return registration.waiting
    away = sorted(
        fact.node_name for fact in replicas if not fact.online and fact.report.state is ReplicaState.READY
    )
    if away and not heard:
        return f"waiting for node {away[0]} to return"
    if registration.resolved and not registration.placed and not registration.reachable:
        return "waiting for a node to be online"
    if registration.resolved and not registration.placed:
        return "waiting for a node with enough memory and disk"
    return None
