"""The link: the messages of a node and its balancer."""

from __future__ import annotations

from typing import Protocol, TypeVar

from msgspec import Struct, structs

from llb.wire.models import Capability
from llb.wire.nodes import EngineReport, Hardware, Meters
from llb.wire.states import ReplicaState

# Of the link. A balancer understands the one before, so that hosts can be upgraded one by one.
PROTOCOL_VERSION = 2
MIN_PROTOCOL_VERSION = 1


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


class PeerSource(Struct, frozen=True, kw_only=True):
    """A node to copy a model's files from. `address` is its base URL, empty for the balancer's own node: that is where
    the reader dials its balancer. `tickets` is what may be read there, by the file's sha256."""

    node_id: str
    node_name: str
    address: str
    tickets: dict[str, str]
    anchor: str = ""  # by which it is believed over TLS


class DesiredModel(Struct, frozen=True, kw_only=True):
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
    copies: tuple[PeerSource, ...] = ()
    pinned: bool | None = None

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    def is_same_download(self, other: DesiredModel | None) -> bool:
        """Whether `other` asks for the same files; from whom they may be copied makes no difference."""
        return other is not None and structs.replace(self, copies=other.copies, pinned=other.pinned) == other


class DesiredState(Struct, frozen=True, kw_only=True, tag="want"):
    """The whole desired state of one node. What it does not mention stays on disk and is not served."""

    cluster_id: str
    revision: int
    models: tuple[DesiredModel, ...]
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


class OpenTunnels(Struct, frozen=True, kw_only=True, tag="dial"):
    """The node cannot be dialled: it keeps so many connections ready that it has dialled itself (`GET /hop/dial`)."""

    spares: int


class LinkRejected(Struct, frozen=True, kw_only=True, tag="refused"):
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
    believes to be reached; `anchor` is the certificate (PEM) by which it is believed there over TLS."""

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


def placeholder_hello(node_id: str, *, protocol: int = 0, version: str = "") -> Hello:
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


class BadSourceReport(Struct, frozen=True, kw_only=True, tag="blame"):
    """A file that was copied from the node `node_id` had the wrong sha256."""

    model_id: str
    sha256: str
    node_id: str


NodeMessage = Hello | Heartbeat | ReplicaReport | BadSourceReport
BalancerMessage = Welcome | DesiredState | Drain | OpenTunnels | LinkRejected


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


NodeLink = Link[NodeMessage, BalancerMessage]
BalancerLink = Link[BalancerMessage, NodeMessage]
