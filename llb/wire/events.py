"""Events of `/ws/models`."""

from __future__ import annotations

from msgspec import Struct

from llb.texts.text_codes import CodedError
from llb.wire.endpoints.views import EndpointStatus
from llb.wire.states import EngineState, ModelStatus, NodeStatus
from llb.wire.views import HfStats, ReachView


class ModelStatusChanged(CodedError, frozen=True, kw_only=True, tag="ModelStatusChanged", tag_field="type"):
    seq: int = 0
    model_id: str
    status: ModelStatus
    progress: float | None = None
    downloaded_bytes: int | None = None
    total_bytes: int | None = None
    bytes_per_second: float | None = None
    eta_seconds: float | None = None
    available_nodes: int = 0
    # Kept bytes of a cancelled download, on all nodes together.
    partial_bytes: int = 0


class ModelStatsUpdated(Struct, frozen=True, kw_only=True, tag="ModelStatsUpdated", tag_field="type"):
    seq: int = 0
    model_id: str
    hf_stats: HfStats


class ReplicaDownload(CodedError, frozen=True, kw_only=True):
    """Download progress of a model on a node; `error` is what it waits for at present."""

    downloaded_bytes: int
    total_bytes: int
    bytes_per_second: float


class NodeModel(Struct, frozen=True):
    """Model on a node.

    `engine` is None while it is not in memory, `engine_progress` (0–1) is set while it is loaded, and
    `download` while its files are downloaded or verified.
    """

    model_id: str
    lifecycle_status: str
    engine: EngineState | None = None
    engine_progress: float | None = None
    download: ReplicaDownload | None = None


class NodeStatusChanged(Struct, frozen=True, kw_only=True, tag="NodeStatusChanged", tag_field="type"):
    seq: int = 0
    node_id: str
    name: str
    status: NodeStatus
    draining: bool
    tags: tuple[str, ...] = ()
    reach: ReachView | None = None
    models: tuple[NodeModel, ...] = ()


class MetricsUpdated(Struct, frozen=True, kw_only=True, tag="MetricsUpdated", tag_field="type"):
    seq: int = 0
    node_id: str
    cpu_usage: float
    memory_usage: float
    gpu_usage: float | None
    gpu_memory_usage: float | None
    memory_used_bytes: int
    disk_free_bytes: int
    slots: int
    request_count: int
    active_requests: int
    tokens_per_second: float


class EndpointStatusChanged(Struct, frozen=True, kw_only=True, tag="EndpointStatusChanged", tag_field="type"):
    """Change of an endpoint: its status, its settings or its list of models. `removed`: it is gone."""

    seq: int = 0
    endpoint_id: str
    name: str
    status: EndpointStatus
    removed: bool = False
    latency_ms: float | None = None
    active_requests: int = 0
    models: int = 0


class AnswersRunning(Struct, frozen=True, kw_only=True, tag="AnswersRunning", tag_field="type"):
    """Number of answers that the Playground is generating for a user, who alone gets the event."""

    seq: int = 0
    user_id: str
    count: int


class HelloEvent(Struct, frozen=True, kw_only=True, tag="Hello", tag_field="type"):
    seq: int
    version: str


class Resync(Struct, frozen=True, kw_only=True, tag="Resync", tag_field="type"):
    seq: int


Event = (
    ModelStatusChanged
    | ModelStatsUpdated
    | NodeStatusChanged
    | MetricsUpdated
    | EndpointStatusChanged
    | AnswersRunning
)
