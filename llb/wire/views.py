"""Models and nodes in the API."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from llb.texts.text_codes import CodedError, TextCode
from llb.wire.link import ReplicaReport
from llb.wire.models import CardContext, LoadOptions, Model, PartialDownload, PartialReport, Placement
from llb.wire.nodes import DraftReport, EngineReport, Hardware, Meters
from llb.wire.states import KvCacheType, ModelStatus, NodeStatus, ReachWay, ReplicaState, Verdict


class HfStats(Struct, frozen=True, kw_only=True):
    downloads: int | None = None
    stars: int | None = None
    last_modified: str | None = None
    # Identifier of its licence, such as apache-2.0.
    license: str | None = None


class ReplicaView(CodedError, frozen=True, kw_only=True, omit_defaults=False):
    node_id: str
    node_name: str
    state: ReplicaState
    progress: float | None
    path: str | None = None
    engine: EngineReport | None = None
    last_used: float | None = None
    # Size on the disk of its node; for a download the final size.
    size_bytes: int = 0


class Fit(Struct, frozen=True, kw_only=True):
    verdict: Verdict
    required_bytes: int
    available_bytes: int | None
    node_name: str | None


class ModelMemory(Struct, frozen=True, kw_only=True):
    """Memory of a model: the least with which it runs, and what its engines reserve and use while loaded.

    `slots` and the bytes are of all nodes together, `context_length` is in tokens per slot.
    `used_bytes` is None where it cannot be measured.
    """

    minimum_bytes: int
    reserved_bytes: int | None = None
    used_bytes: int | None = None
    slots: int | None = None
    context_length: int | None = None


class ModelWithStatus(CodedError, frozen=True, kw_only=True):
    model: Model
    status: ModelStatus
    supported: bool
    hf_stats: HfStats | None
    download_progress: float | None
    downloaded_bytes: int | None
    total_bytes: int | None
    bytes_per_second: float | None
    eta_seconds: float | None
    available_nodes: int
    pinned: bool
    replicas: tuple[ReplicaView, ...]
    fit: Fit
    memory: ModelMemory
    # Set while it is Available and a cancelled download of it is kept.
    partial: PartialDownload | None = None
    # How a registered model is loaded, and on which nodes it is kept; None for the defaults.
    options: LoadOptions | None = None
    placement: Placement | None = None


class MemoryView(Struct, frozen=True, kw_only=True):
    """Memory of an engine of this model in bytes, with the context length in tokens per slot."""

    model_id: str
    context_length: int
    trained_context_length: int
    slots: int
    weights_bytes: int
    kv_cache_bytes: int
    compute_bytes: int
    other_bytes: int
    total_bytes: int
    fit: Fit


class HostFit(Struct, frozen=True, kw_only=True):
    """What an engine would occupy in the RAM of a host."""

    weights_bytes: int = 0
    kv_bytes: int = 0
    compute_bytes: int = 0
    # Outputs, checkpoints, prompt cache and the process itself.
    other_bytes: int = 0
    total_bytes: int = 0


class DeviceFit(Struct, frozen=True, kw_only=True):
    """What an engine would occupy on one GPU, of the `limit_bytes` that it may use there."""

    name: str
    kind: str
    # The output counts as one.
    layers: int = 0
    # Layers on this GPU whose experts lie in RAM.
    expert_layers_on_host: int = 0
    weights_bytes: int = 0
    kv_bytes: int = 0
    compute_bytes: int = 0
    # Context and kernels of the GPU runtime.
    other_bytes: int = 0
    total_bytes: int = 0
    limit_bytes: int = 0


class DraftFit(DraftReport, frozen=True, kw_only=True):
    """Drafts of the model, and what they take of the sizes in the report; whether the vocabulary is the same
    is known only where both files are.
    """

    total_bytes: int = 0


class FitReport(Struct, frozen=True, kw_only=True):
    """What a host would do with a model: `context_length` in tokens per slot, 0 if the model does not fit.

    `reason` says why it does not fit, or what is given up so that it does; None if nothing is.
    """

    model: str
    fits: bool
    reason: str | None
    # Codes of the sentences of `reason`.
    reason_codes: tuple[TextCode, ...] = ()
    context_length: int
    slots: int
    kv_cache_type: KvCacheType = KvCacheType.F16
    host: HostFit
    devices: tuple[DeviceFit, ...]
    # None where the list of models names no draft model and no speculation, and if the model does not fit.
    draft: DraftFit | None = None
    # GPUs of usual sizes that hold the whole model, with the context of one conversation on each.
    cards: tuple[CardContext, ...] = ()


class ModelFile(Struct, frozen=True, kw_only=True):
    """File of a model in its repository, at the pinned commit; `commit` is None if it is not known."""

    name: str
    size_bytes: int
    sha256: str
    commit: str | None


class ModelFiles(Struct, frozen=True, kw_only=True):
    model_id: str
    repo: str
    files: tuple[ModelFile, ...]


class ModelList(Struct, frozen=True):
    models: tuple[ModelWithStatus, ...]


class RegisterRequest(Struct, frozen=True):
    model_id: str
    replicas: int | Literal["all"] = "all"
    placement: Placement | None = None


class ModelPatch(Struct, frozen=True, kw_only=True):
    """Change of a registered model; omitted fields stay, `null` is the default."""

    pinned: bool | UnsetType = UNSET
    options: LoadOptions | UnsetType | None = UNSET
    placement: Placement | UnsetType | None = UNSET


class LoadRequest(Struct, frozen=True, kw_only=True):
    """Load of a model with `options`, which are kept for later loads, on these nodes or where it is ready."""

    options: LoadOptions | UnsetType | None = UNSET
    nodes: tuple[str, ...] | None = None


class ImportRequest(Struct, frozen=True):
    path: str
    model_id: str | None = None


class RegisterReply(Struct, frozen=True, kw_only=True):
    model_id: str
    status: ModelStatus
    message: str


class ReachView(Struct, frozen=True, kw_only=True):
    """How requests reach a node; `answer_ms` is the last measured round trip of a small request."""

    way: ReachWay
    answer_ms: float | None = None


class NodeView(Struct, frozen=True, kw_only=True):
    id: str
    name: str
    status: NodeStatus
    draining: bool
    address: str | None
    reach: ReachView = ReachView(way=ReachWay.NONE)
    version: str
    platform: str
    tags: tuple[str, ...]
    hardware: Hardware
    meters: Meters
    memory_budget_bytes: int
    memory_used_bytes: int
    disk_free_bytes: int
    max_downloads: int
    active_requests: int
    slots: int
    engines: tuple[EngineReport, ...]
    replicas: tuple[ReplicaReport, ...]
    last_seen: float
    partials: tuple[PartialReport, ...] = ()
    # Problems of its host, as sentences with a remedy.
    problems: tuple[str, ...] = ()
    # Codes of the problems, in their order; empty from a node of an earlier version.
    problem_codes: tuple[TextCode | None, ...] = ()


class NodeList(Struct, frozen=True):
    nodes: tuple[NodeView, ...]
