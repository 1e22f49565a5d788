"""Link between a node and its balancer: its messages and its protocol version."""

from __future__ import annotations

from typing import Protocol, TypeVar

from msgspec import Struct, structs

from llb.texts.text_codes import CodedError, TextCode
from llb.wire.models import Capability, LoadOptions, PartialReport
from llb.wire.nodes import EngineReport, Hardware, Meters, TemplateSupport
from llb.wire.states import ReplicaState, Speculation

# A balancer also speaks the previous version, so that hosts can be upgraded one by one.
PROTOCOL_VERSION = 2
MIN_PROTOCOL_VERSION = 1


class HubSource(Struct, frozen=True, tag="hub", tag_field="type"):
    """File in a Hub repository at one commit."""

    repo: str
    commit: str


class FileSpec(Struct, frozen=True, kw_only=True):
    """File that a node is to hold, with the commit pinned by the balancer."""

    name: str
    size_bytes: int
    sha256: str
    sources: tuple[HubSource, ...]


class PeerSource(Struct, frozen=True, kw_only=True):
    """Node to copy the files of a model from.

    `address` is its base URL, empty for the balancer's own node, which has the address of the balancer.
    `tickets` are the file tokens by sha256.
    """

    node_id: str
    node_name: str
    address: str
    tickets: dict[str, str]
    # Its trust anchor over TLS.
    anchor: str = ""


class DesiredModel(Struct, frozen=True, kw_only=True):
    """Model that a node is to hold; a greater `attempt` than before requests a retry.

    `copies` are the nodes to copy it from, best first; without them the node downloads from the Hub. `pinned`
    keeps its engine in memory; None, from a balancer of an earlier version, leaves that unchanged. `draft` is
    the model that drafts for this one where the node holds both, `speculation` how it drafts for itself.
    """

    model_id: str
    attempt: int
    files: tuple[FileSpec, ...]
    required_memory_bytes: int
    capabilities: tuple[Capability, ...]
    context_length: int | None = None
    copies: tuple[PeerSource, ...] = ()
    pinned: bool | None = None
    options: LoadOptions | None = None
    draft: str | None = None
    speculation: Speculation | None = None

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def is_same_download(self, other: DesiredModel | None) -> bool:
        """Return whether `other` requests the same files, whatever their sources and how they are loaded."""
        if other is None:
            return False
        same: DesiredModel = structs.replace(
            self,
            copies=other.copies,
            pinned=other.pinned,
            options=other.options,
            draft=other.draft,
            speculation=other.speculation,
        )
        return same == other


class DesiredState(Struct, frozen=True, kw_only=True, tag="want"):
    """Complete desired state of a node. Other models stay on its disk and are not served."""

    cluster_id: str
    revision: int
    # Models in the order in which they are downloaded.
    models: tuple[DesiredModel, ...]
    deleted: tuple[str, ...] = ()
    # Bytes per second of all downloads, in addition to the node's own limit; None for no limit.
    download_rate: int | None = None


class Welcome(Struct, frozen=True, kw_only=True, tag="welcome"):
    """Reply of the balancer to `Hello`: the name of the node, and the balancer's time in Unix seconds."""

    protocol: int
    cluster_id: str
    node_id: str
    name: str = ""
    time: float = 0.0


class Drain(Struct, frozen=True, kw_only=True, tag="drain"):
    draining: bool


class OpenTunnels(Struct, frozen=True, kw_only=True, tag="dial"):
    """Request to an unreachable node to keep `spares` idle tunnels open (`GET /hop/dial`)."""

    spares: int


class LinkRejected(Struct, frozen=True, kw_only=True, tag="refused"):
    """Rejection of a node, with a sentence for its operator; the link ends."""

    message: str


class ReplicaReport(CodedError, frozen=True, kw_only=True, tag="replica"):
    """State of a replica on its node. While downloading, `error` is what it waits for, not a failure."""

    model_id: str
    attempt: int
    state: ReplicaState
    downloaded_bytes: int = 0
    total_bytes: int = 0
    bytes_per_second: float = 0.0
    path: str | None = None
    engine: EngineReport | None = None
    last_used: float | None = None
    # Kept bytes of a download whose replica is gone.
    partial_bytes: int = 0
    # Capabilities of the chat template; None while they are unknown, and from a node of an earlier version.
    template_capabilities: tuple[Capability, ...] | None = None
    template: TemplateSupport | None = None

    @property
    def progress(self) -> float:
        return min(1.0, self.downloaded_bytes / self.total_bytes) if self.total_bytes else 0.0


class Hello(Struct, frozen=True, kw_only=True, tag="hello"):
    """First message of a node, with its complete state.

    `instance` identifies the run of its process, `addresses` are base URLs at which it may be reachable, and
    `anchor` is its trust anchor (PEM) over TLS.
    """

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
    anchor: str = ""
    # Problems of this host, as sentences.
    problems: tuple[str, ...] = ()
    # Codes of the problems, in their order; empty from a node of an earlier version.
    problem_codes: tuple[TextCode | None, ...] = ()


def placeholder_hello(node_id: str, *, protocol: int = 0, version: str = "") -> Hello:
    """Return the `Hello` of a node that has not sent a valid one."""
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
    # What cancelled downloads left on the disk.
    partials: tuple[PartialReport, ...] = ()
    # Replaces the number of the hello; None from a node of an earlier version.
    slots_per_engine: int | None = None


class BadSourceReport(Struct, frozen=True, kw_only=True, tag="blame"):
    """Report of a file with a wrong sha256 that was copied from `node_id`."""

    model_id: str
    sha256: str
    node_id: str


NodeMessage = Hello | Heartbeat | ReplicaReport | BadSourceReport
BalancerMessage = Welcome | DesiredState | Drain | OpenTunnels | LinkRejected


Out = TypeVar("Out", contravariant=True)
In = TypeVar("In", covariant=True)


class Link(Protocol[Out, In]):
    """One end of the link between a node and its balancer; messages arrive complete and in order."""

    async def send(self, message: Out) -> None:
        """Send a message. Raises `LinkClosed` once the link has ended."""
        ...

    async def receive(self) -> In:
        """Return the next message. Raises `LinkClosed` once the link has ended."""
        ...

    async def close(self) -> None:
        """End the link for both ends; idempotent."""
        ...


class LinkClosed(Exception):
    """The link between a node and its balancer has ended."""


NodeLink = Link[NodeMessage, BalancerMessage]
BalancerLink = Link[BalancerMessage, NodeMessage]
