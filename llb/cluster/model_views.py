"""Views of models and nodes for the API and for events, built from reports. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import structs

from llb.wire import (
    EngineReport,
    EngineState,
    Model,
    ModelMemory,
    NodeModel,
    NodeStatusChanged,
    PartialCopy,
    PartialDownload,
    ReplicaDownload,
    ReplicaReport,
    ReplicaState,
)

SERVING_STATES = (EngineState.READY, EngineState.BUSY)
_DOWNLOADING_STATES = (ReplicaState.DOWNLOADING, ReplicaState.VERIFYING)


def describe_memory(model: Model, engines: Iterable[EngineReport | None]) -> ModelMemory:
    """The least memory of a model, and what its loaded engines have together."""
    loaded = [engine for engine in engines if engine is not None and engine.memory_bytes > 0]
    if not loaded:
        return ModelMemory(minimum_bytes=model.required_memory_bytes)
    serving = [engine for engine in loaded if engine.state in SERVING_STATES]
    used = [engine.used_bytes for engine in serving if engine.used_bytes is not None]
    lengths = [engine.context_length for engine in serving if engine.context_length is not None]
    return ModelMemory(
        minimum_bytes=model.required_memory_bytes,
        reserved_bytes=sum(engine.memory_bytes for engine in loaded),
        # If a figure is missing, the sum would cover other engines than `reserved_bytes`.
        used_bytes=sum(used) if used and len(used) == len(loaded) else None,
        slots=sum(engine.slots for engine in serving) if serving else None,
        context_length=min(lengths, default=None),
    )


def describe_partial(total_bytes: int, copies: Sequence[tuple[str, str, int]]) -> PartialDownload | None:
    """What a cancelled download left: `copies` are id and name of each node, and the bytes there."""
    if not copies:
        return None
    sizes = [size for _, _, size in copies]
    return PartialDownload(
        downloaded_bytes=min(max(sizes), total_bytes),
        total_bytes=total_bytes,
        disk_bytes=sum(sizes),
        nodes=tuple(
            PartialCopy(node_id=node_id, node_name=name, size_bytes=size) for node_id, name, size in copies
        ),
    )


def build_node_model(report: ReplicaReport, engine: EngineReport | None) -> NodeModel:
    """A model in an event of its node; a ready, loaded model has the state of its engine."""
    if engine is None:
        return NodeModel(report.model_id, report.state.value, download=_build_replica_download(report))
    is_ready = report.state is ReplicaState.READY
    return NodeModel(
        report.model_id,
        engine.state.value if is_ready else report.state.value,
        engine=engine.state,
        engine_progress=engine.progress,
        download=_build_replica_download(report),
    )


def _build_replica_download(report: ReplicaReport) -> ReplicaDownload | None:
    if report.state not in _DOWNLOADING_STATES:
        return None
    return ReplicaDownload(
        downloaded_bytes=report.downloaded_bytes,
        total_bytes=report.total_bytes,
        bytes_per_second=report.bytes_per_second,
        error=report.error_text,
    )


def urgent_part_of(event: NodeStatusChanged) -> object:
    """The part of an event whose changes are published at once: everything except progress and figures."""
    return (
        structs.replace(event, models=(), reach=None),
        event.reach and event.reach.way,
        tuple(
            (model.model_id, model.lifecycle_status, model.engine, model.download and model.download.error)
            for model in event.models
        ),
    )
