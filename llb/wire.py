"""Every field name that leaves this process: the API, the events and the link between balancer and node."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Protocol, TypeVar

from msgspec import UNSET, Raw, Struct, UnsetType, field, structs

# Of the link. A balancer understands the one before, so that hosts can be upgraded one by one.
PROTOCOL_VERSION = 2
OLDEST_PROTOCOL = 1


# --- the catalogue -----------------------------------------------------------------------------------


class Capability(StrEnum):
    TEXT_GENERATION = "TextGeneration"
    IMAGE_UNDERSTANDING = "ImageUnderstanding"
    IMAGE_GENERATION = "ImageGeneration"
    SPEECH_TO_TEXT = "SpeechToText"
    TEXT_TO_SPEECH = "TextToSpeech"
    EMBEDDING = "Embedding"
    RERANKING = "Reranking"


class Platform(StrEnum):
    LINUX = "Linux"
    WINDOWS = "Windows"
    MACOS = "MacOS"


class Model(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One catalogue entry. `size_bytes` counts all its files."""

    id: str
    name: str
    description: str = ""
    repo: str
    recommended_filename: str
    extra_filenames: tuple[str, ...] = ()
    size_bytes: int
    required_memory_bytes: int
    tags: tuple[str, ...] = ()
    capabilities: tuple[Capability, ...] = (Capability.TEXT_GENERATION,)
    quantization: str | None = None
    parameter_count: str | None = None
    format: Literal["Gguf"] = "Gguf"
    engine: Literal["llama.cpp"] = "llama.cpp"
    platforms: tuple[Platform, ...] = (Platform.LINUX, Platform.WINDOWS, Platform.MACOS)
    context_length: int | None = None
    sha256: str | None = None
    revision: str | None = None

    @property
    def filenames(self) -> tuple[str, ...]:
        return (self.recommended_filename, *self.extra_filenames)


# --- lifecycles --------------------------------------------------------------------------------------


class ModelStatus(StrEnum):
    AVAILABLE = "Available"
    REGISTERED = "Registered"
    DOWNLOADING = "Downloading"
    READY = "Ready"
    ERROR = "Error"


class ReplicaState(StrEnum):
    WANTED = "wanted"
    DOWNLOADING = "downloading"
    VERIFYING = "verifying"
    READY = "ready"
    ERROR = "error"
    DELETING = "deleting"
    GONE = "gone"


class EngineState(StrEnum):
    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    STOPPING = "stopping"
    FAILED = "failed"


class NodeStatus(StrEnum):
    JOINING = "joining"
    ONLINE = "online"
    OFFLINE = "offline"
    REMOVED = "removed"


class ReachWay(StrEnum):
    LOCAL = "local"
    DIRECT = "direct"
    REVERSE = "reverse"  # over connections that the node dials itself
    NONE = "none"


class Verdict(StrEnum):
    FITS = "fits"
    TIGHT = "tight"
    TOO_LARGE = "too_large"
    UNKNOWN = "unknown"


# --- what a node is ----------------------------------------------------------------------------------


class Gpu(Struct, frozen=True, kw_only=True):
    """A GPU of a host; `usable` means that the installed engine build can run on it."""

    name: str
    memory_total_bytes: int
    memory_free_bytes: int
    usable: bool


class Hardware(Struct, frozen=True, kw_only=True):
    cpu: str
    cpu_count: int
    memory_total_bytes: int
    gpus: tuple[Gpu, ...] = ()


class Meters(Struct, frozen=True, kw_only=True):
    """What a node uses now: shares 0–1; None where there is nothing to measure."""

    cpu_usage: float = 0.0
    memory_usage: float = 0.0
    gpu_usage: float | None = None
    gpu_memory_usage: float | None = None


class EngineReport(Struct, frozen=True, kw_only=True):
    model_id: str
    state: EngineState
    slots: int
    busy: int = 0
    context_length: int | None = None
    memory_bytes: int = 0
    progress: float | None = None
    error: str | None = None
    pinned: bool = False


# --- the link: node ⇄ balancer -----------------------------------------------------------------------


class HubSource(Struct, frozen=True, tag="hub", tag_field="type"):
    """A file in a Hub repository at exactly this commit."""

    repo: str
    commit: str


class FileSpec(Struct, frozen=True, kw_only=True):
    """One file that a node is to hold, as the balancer pinned it."""

    name: str
    size_bytes: int
    sha256: str
    sources: tuple[HubSource, ...]


class CopySource(Struct, frozen=True, kw_only=True):
    """A node to copy a model's files from. `address` is its base URL, empty for the balancer's own node: that is where
    the reader dials its balancer. `tickets` is what may be read there, by the file's sha256."""

    node_id: str
    node_name: str
    address: str
    tickets: dict[str, str]


class WantModel(Struct, frozen=True, kw_only=True):
    """A model that a node is to hold; a greater `attempt` than before means: try again.

    `copies`, best first, are the nodes to copy it from; without any the Hub is asked at once. `pinned`: its engine stays in
    memory; None: as it was, says a balancer that keeps no such wish.
    """

    model_id: str
    attempt: int
    files: tuple[FileSpec, ...]
    required_memory_bytes: int
    capabilities: tuple[Capability, ...]
    context_length: int | None = None
    copies: tuple[CopySource, ...] = ()
    pinned: bool | None = None

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def same_work(self, other: WantModel | None) -> bool:
        """Whether `other` asks for the same files; from whom they may be copied makes no difference."""
        return other is not None and structs.replace(self, copies=other.copies, pinned=other.pinned) == other


class Want(Struct, frozen=True, kw_only=True, tag="want"):
    """The whole desired state of one node. What it does not mention stays on disk and is not served."""

    cluster_id: str
    revision: int
    models: tuple[WantModel, ...]
    deleted: tuple[str, ...] = ()


class Welcome(Struct, frozen=True, kw_only=True, tag="welcome"):
    """`name` is what the balancer calls the node, `time` its clock in unix seconds."""

    protocol: int
    cluster_id: str
    node_id: str
    name: str = ""
    time: float = 0.0


class Drain(Struct, frozen=True, kw_only=True, tag="drain"):
    draining: bool


class Dial(Struct, frozen=True, kw_only=True, tag="dial"):
    """The node cannot be dialled: it keeps so many connections ready that it has dialled itself (`GET /hop/dial`)."""

    spares: int


class Refused(Struct, frozen=True, kw_only=True, tag="refused"):
    """The last word to a node that is sent away, as a sentence for its operator."""

    message: str


class ReplicaReport(Struct, frozen=True, kw_only=True, tag="replica"):
    """One replica as its node sees it. `error` beside `downloading` is what it waits for, not a failure."""

    model_id: str
    attempt: int
    state: ReplicaState
    downloaded_bytes: int = 0
    total_bytes: int = 0
    bytes_per_second: float = 0.0
    error: str | None = None
    path: str | None = None
    engine: EngineReport | None = None
    last_used: float | None = None

    @property
    def progress(self) -> float:
        return min(1.0, self.downloaded_bytes / self.total_bytes) if self.total_bytes else 0.0


class Hello(Struct, frozen=True, kw_only=True, tag="hello"):
    """A node with its whole state. `instance` is of this start of its process; `addresses` are the base URLs where it
    believes to be reached."""

    protocol: int
    node_id: str
    name: str
    version: str
    platform: str
    addresses: tuple[str, ...]
    hardware: Hardware
    memory_budget_bytes: int
    vram_budget_bytes: int
    max_downloads: int
    slots_per_engine: int
    replicas: tuple[ReplicaReport, ...]
    instance: str = ""


def blank_hello(node_id: str, *, protocol: int = 0, version: str = "") -> Hello:
    """What there is to say of a node that has not said a word that is understood."""
    return Hello(
        protocol=protocol,
        node_id=node_id,
        name="",
        version=version,
        platform="",
        addresses=(),
        hardware=Hardware(cpu="", cpu_count=0, memory_total_bytes=0),
        memory_budget_bytes=0,
        vram_budget_bytes=0,
        max_downloads=0,
        slots_per_engine=0,
        replicas=(),
    )


class Heartbeat(Struct, frozen=True, kw_only=True, tag="heartbeat"):
    hardware: Hardware
    meters: Meters
    memory_used_bytes: int
    disk_free_bytes: int
    engines: tuple[EngineReport, ...] = ()


class Blame(Struct, frozen=True, kw_only=True, tag="blame"):
    """A file that was copied from the node `node_id` had the wrong sha256."""

    model_id: str
    sha256: str
    node_id: str


NodeMessage = Hello | Heartbeat | ReplicaReport | Blame
BalancerMessage = Welcome | Want | Drain | Dial | Refused


Out = TypeVar("Out", contravariant=True)
In = TypeVar("In", covariant=True)


class Link(Protocol[Out, In]):
    """One end of the channel between a node and its balancer; messages arrive whole and in order."""

    async def send(self, message: Out) -> None:
        """Hand over one message; raises `LinkClosed` when the channel has ended."""
        ...

    async def receive(self) -> In:
        """The next message; raises `LinkClosed` when the channel has ended."""
        ...

    async def close(self) -> None:
        """End the channel, for both ends; idempotent."""
        ...


class LinkClosed(Exception):
    """The channel between a node and its balancer has ended."""


class JoinRequest(Struct, frozen=True, kw_only=True):
    """A host that asks to become a node; `cluster_id` is of the cluster it has been a balancer of itself."""

    token: str
    name: str
    protocol: int
    version: str
    cluster_id: str = ""


class JoinReply(Struct, frozen=True, kw_only=True):
    """What the new node is called, and the credentials: its own, and the one that the balancer will show it."""

    node_id: str
    name: str
    cluster_id: str
    credential: str
    hop_credential: str
    protocol: int
    version: str


class LentView(Struct, frozen=True, kw_only=True):
    """A host that lends itself, as its own commands see it; `problem` is why the link does not stand, as a sentence."""

    version: str
    balancer_url: str
    name: str | None
    problem: str | None


class LeaveReply(Struct, frozen=True, kw_only=True):
    """A host stands alone again. `untold` is why its balancer could not be told, None if it was."""

    untold: str | None = None


class NewJoinToken(Struct, frozen=True, kw_only=True):
    """A token that lets one host join. `hint` is what stands in the way of it, as a sentence; `hint_code` names it for
    readers of other languages."""

    token: str
    expires_at: str
    command: str
    hint: str | None = None
    hint_code: Literal["only_loopback"] | None = None


class NodePatch(Struct, frozen=True):
    name: str | None = None
    tags: tuple[str, ...] | None = None
    draining: bool | None = None


NodeLink = Link[NodeMessage, BalancerMessage]
BalancerLink = Link[BalancerMessage, NodeMessage]


# --- the API -----------------------------------------------------------------------------------------


class HfStats(Struct, frozen=True, kw_only=True):
    downloads: int | None = None
    stars: int | None = None
    last_modified: str | None = None


class ReplicaView(Struct, frozen=True, kw_only=True, omit_defaults=False):
    node_id: str
    node_name: str
    state: ReplicaState
    progress: float | None
    error: str | None
    path: str | None = None
    engine: EngineReport | None = None
    last_used: float | None = None


class Fit(Struct, frozen=True, kw_only=True):
    verdict: Verdict
    required_bytes: int
    available_bytes: int | None
    node_name: str | None


class ModelWithStatus(Struct, frozen=True, kw_only=True):
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
    error: str | None


class MemoryView(Struct, frozen=True, kw_only=True):
    """What an engine of this model would need in memory; bytes, context length in tokens a slot."""

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


class ModelList(Struct, frozen=True):
    models: tuple[ModelWithStatus, ...]


class RegisterRequest(Struct, frozen=True):
    model_id: str
    replicas: int | Literal["all"] = "all"


class ModelPatch(Struct, frozen=True):
    pinned: bool


class ImportRequest(Struct, frozen=True):
    path: str
    model_id: str | None = None


class RegisterReply(Struct, frozen=True, kw_only=True):
    model_id: str
    status: ModelStatus
    message: str


class ReachView(Struct, frozen=True, kw_only=True):
    """How requests get to a node. `answer_ms`: what a small one takes there and back, as last measured."""

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


class NodeList(Struct, frozen=True):
    nodes: tuple[NodeView, ...]


# --- people and keys ---------------------------------------------------------------------------------


class Role(StrEnum):
    ADMIN = "admin"
    USER = "user"


class Scope(StrEnum):
    INFERENCE = "inference"
    MODELS_READ = "models:read"
    MODELS_WRITE = "models:write"
    ADMIN = "admin"


class LoginRequest(Struct, frozen=True):
    username: str
    password: str


class UserView(Struct, frozen=True, kw_only=True):
    id: str
    username: str
    role: Role
    must_change_password: bool
    created_at: str | None = None


class LoginReply(Struct, frozen=True, kw_only=True):
    expires_at: str
    user: UserView


class UserList(Struct, frozen=True):
    users: tuple[UserView, ...]


class Me(Struct, frozen=True, kw_only=True):
    """Whose credential it is and what it may do; `user` is None for a key made on the host."""

    kind: Literal["session", "key", "local", "node"]
    user: UserView | None
    scopes: tuple[Scope, ...]
    expires_at: str | None


class PasswordRequest(Struct, frozen=True):
    current_password: str
    new_password: str


class NewUser(Struct, frozen=True):
    username: str
    password: str
    role: Role = Role.USER


class UserPatch(Struct, frozen=True):
    role: Role | None = None
    password: str | None = None


class NewKey(Struct, frozen=True):
    name: str
    scopes: tuple[Scope, ...] | None = None
    expires_at: str | None = None


class KeyView(Struct, frozen=True, kw_only=True):
    id: str
    name: str
    prefix: str
    scopes: tuple[Scope, ...]
    expires_at: str | None
    created_at: str
    last_used_at: str | None = None
    owner: str | None = None


class KeyList(Struct, frozen=True):
    keys: tuple[KeyView, ...]


class NewKeyReply(Struct, frozen=True, kw_only=True):
    id: str
    name: str
    key: str
    prefix: str
    scopes: tuple[Scope, ...]
    expires_at: str | None


class AuditEntry(Struct, frozen=True, kw_only=True):
    id: int
    time: str
    actor: str
    action: str
    target: str | None
    address: str | None
    result: str


class AuditPage(Struct, frozen=True):
    """Newest first; `next_cursor` goes into `?before=` for what is older, None at the end."""

    entries: tuple[AuditEntry, ...]
    next_cursor: int | None


class RequestView(Struct, frozen=True, kw_only=True):
    """One inference request. `time` is when it came. `user` is whose key or session it was; `key_id` None for a session,
    both None for the commands on the host. `ttft_ms` is the time to the first token. Tokens are None where not known."""

    id: int
    time: str
    request_id: str
    key_id: str | None
    key_name: str | None
    user_id: str | None
    user: str | None
    model: str | None
    node_id: str | None
    node_name: str | None
    endpoint: str
    stream: bool
    status: int
    error_code: str | None
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    queue_ms: int
    ttft_ms: int | None
    duration_ms: int
    has_text: bool


class RequestPage(Struct, frozen=True, kw_only=True):
    """Newest first; `next_cursor` goes into `?before=` for what is older, None at the end. The rest is what is kept."""

    requests: tuple[RequestView, ...]
    next_cursor: int | None
    history_days: int
    history_text: bool


class RequestText(Struct, frozen=True, kw_only=True):
    """What was asked and answered, within a limit: of a prompt its end is kept, of an answer its beginning."""

    prompt: str | None = None
    prompt_truncated: bool = False
    answer: str | None = None
    answer_truncated: bool = False


class RequestDetail(RequestView, frozen=True, kw_only=True):
    text: RequestText | None


class UsageBy(StrEnum):
    MODEL = "model"
    KEY = "key"
    NODE = "node"


class UsageBucket(StrEnum):
    HOUR = "hour"
    DAY = "day"


class UsageView(Struct, frozen=True, kw_only=True):
    """The requests that came in one hour or day of UTC for one model, key or node. Without a key it is the sessions of
    `user`, or, where that is None too, the commands on the host."""

    bucket: str
    key: str | None
    name: str | None
    user_id: str | None
    user: str | None
    requests: int
    errors: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    duration_ms: int


class UsageReport(Struct, frozen=True, kw_only=True):
    """Oldest first, nothing for a time without requests; `truncated`: what is older than the first was left out."""

    by: UsageBy
    bucket: UsageBucket
    start: str = field(name="from")
    end: str = field(name="to")
    usage: tuple[UsageView, ...]
    truncated: bool


class SettingView(Struct, frozen=True, kw_only=True):
    """One setting in effect. `name` is its name in llb.toml; `value` is None where llb finds out by itself."""

    name: str
    flag: str | None
    environment: str
    value: str | None
    is_default: bool


class Liveness(Struct, frozen=True, kw_only=True):
    status: Literal["ok"] = "ok"


class Readiness(Struct, frozen=True, kw_only=True):
    """Whether requests can be served. A host that lends itself to another llb says the `reason` why not."""

    status: Literal["ready", "starting", "waiting"]
    reason: str | UnsetType | None = UNSET


class SystemView(Struct, frozen=True, kw_only=True):
    """What this process is. `problems` are the host's, as sentences; the last three are told to `admin` alone."""

    version: str
    name: str
    started_at: float
    uptime_seconds: float
    platform: str
    python: str
    nodes_online: int
    problems: tuple[str, ...]
    home: str | UnsetType = UNSET
    models_dir: str | UnsetType = UNSET
    settings: tuple[SettingView, ...] | UnsetType = UNSET


# --- live events (/ws/models) ------------------------------------------------------------------------


class ModelStatusChanged(Struct, frozen=True, kw_only=True, tag="ModelStatusChanged", tag_field="type"):
    seq: int = 0
    model_id: str
    status: ModelStatus
    progress: float | None = None
    downloaded_bytes: int | None = None
    total_bytes: int | None = None
    bytes_per_second: float | None = None
    eta_seconds: float | None = None
    available_nodes: int = 0
    error: str | None = None


class ModelStatsUpdated(Struct, frozen=True, kw_only=True, tag="ModelStatsUpdated", tag_field="type"):
    seq: int = 0
    model_id: str
    hf_stats: HfStats


class ReplicaDownload(Struct, frozen=True, kw_only=True):
    """How far one node has come with a model. `error` is what it waits for at the moment."""

    downloaded_bytes: int
    total_bytes: int
    bytes_per_second: float
    error: str | None = None


class NodeModel(Struct, frozen=True):
    """A model on a node. `engine` is None while it is not in memory; `engine_progress` 0–1 while it is being loaded;
    `download` is there while its files come or are verified."""

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


class HelloEvent(Struct, frozen=True, kw_only=True, tag="Hello", tag_field="type"):
    seq: int
    version: str


class Resync(Struct, frozen=True, kw_only=True, tag="Resync", tag_field="type"):
    seq: int


Event = ModelStatusChanged | ModelStatsUpdated | NodeStatusChanged | MetricsUpdated


# --- what /v1 needs to know of a request body, and no more -------------------------------------------


class InferenceHead(Struct, frozen=True):
    """The fields of a request body that the gateway looks at; the rest is skipped, not parsed into objects."""

    model: str
    stream: bool = False
    keep_alive: str | float | None = None
    id_slot: int | None = None
    cache_prompt: bool | None = None
    n: int | None = None
    n_cmpl: int | None = None
    n_probs: int | None = None
    top_logprobs: int | None = None
    logprobs: bool | int | None = None
    n_predict: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    prompt: Raw = Raw()
    messages: Raw = Raw()
    input: Raw = Raw()
    system: Raw = Raw()
    instructions: Raw = Raw()


class ModelObject(Struct, frozen=True, kw_only=True):
    """A Ready model, as OpenAI's clients know one."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "llb"


class ModelObjects(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: tuple[ModelObject, ...]


class ErrorBody(Struct, frozen=True):
    error: dict[str, object] = field(default_factory=dict)
