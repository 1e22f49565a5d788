"""What each node is told of whom to copy from, as the nodes come, get on, fail and are blamed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from msgspec import structs

from llb.base.events import EventBus
from llb.catalog import load_catalog
from llb.cluster.peer_sources import MAX_PEER_SOURCES, PeerSources
from llb.cluster.view import ClusterView
from llb.security.file_token import HOUR_S, derive_key, verify
from llb.store.tables.registrations import Registration
from llb.wire import BadSourceReport, Event, FileSpec, ReplicaReport, ReplicaState
from tests.cluster.test_view import HELLO

S = ReplicaState
FILES = tuple(FileSpec(name=f"{sha}.gguf", size_bytes=1, sha256=sha * 32, sources=()) for sha in ("aa", "bb"))


@dataclass
class Board:
    """Copies over a view that the test fills; every node can be dialled unless it is in `hidden`."""

    view: ClusterView
    copies: PeerSources
    registration: Registration
    hidden: set[str]
    now: list[float]

    def add(self, *names: str) -> None:
        for name in names:
            self.view.on_hello(structs.replace(HELLO, node_id=name, name=f"the {name}"))

    def says(self, node_id: str, state: ReplicaState, attempt: int = 1) -> bool:
        report = ReplicaReport(model_id="tiny", attempt=attempt, state=state)
        self.view.on_replica_report(node_id, report)
        return self.copies.record_replica_report(node_id, report)

    def blame(self, by: str, node_id: str) -> bool:
        return self.copies.record_bad_source(
            by, BadSourceReport(model_id="tiny", sha256="aa" * 32, node_id=node_id)
        )

    def of(self, node_id: str) -> list[str]:
        placed = frozenset(self.view.nodes)
        return [each.node_id for each in self.copies.sources_for(node_id, self.registration, placed)]


@pytest.fixture
def board(catalog: Path) -> Board:
    bus: EventBus[Event] = EventBus()
    models = load_catalog(catalog)
    view = ClusterView(models, bus, lambda _repo: None)
    entry = models.get("tiny")
    assert entry is not None
    hidden: set[str] = set()
    now = [1_800_000_000.0]
    copies = PeerSources(
        view,
        get_local_node_id=lambda: "local",
        address_of=lambda node_id: None if node_id in hidden else f"http://{node_id}:8080",
        file_token_secret_of=lambda node_id: f"the secret of {node_id}",
        clock=lambda: now[0],
    )
    registration = Registration(model_id="tiny", entry=entry, resolved=FILES, created_at=0.0, created_by="t")
    return Board(view, copies, registration, hidden, now)


async def test_each_source_is_named_with_a_ticket_for_each_file(board: Board) -> None:
    board.add("local", "cellar")
    [source] = board.copies.sources_for("cellar", board.registration, frozenset({"local", "cellar"}))
    assert (source.node_name, source.address) == ("the local", "http://local:8080")
    assert set(source.tickets) == {file.sha256 for file in FILES}
    for sha256, text in source.tickets.items():
        ticket = verify(derive_key("the secret of local"), text, board.now[0])
        assert (ticket.sha256, ticket.from_node, ticket.to_node) == (sha256, "local", "cellar")


async def test_the_same_is_said_for_an_hour(board: Board) -> None:
    board.add("local", "cellar")
    placed = frozenset({"local", "cellar"})
    first = board.copies.sources_for("cellar", board.registration, placed)
    board.now[0] += HOUR_S - 1
    assert board.copies.sources_for("cellar", board.registration, placed) == first
    board.now[0] += 1
    assert board.copies.sources_for("cellar", board.registration, placed) != first


async def test_who_has_it_is_told_of_nobody(board: Board) -> None:
    board.add("local", "cellar")
    board.says("cellar", S.READY)
    assert (board.of("cellar"), board.of("local")) == ([], ["cellar"])


async def test_nodes_that_are_not_to_hold_it_are_copied_from_only_if_they_have_it(board: Board) -> None:
    board.add("local", "cellar", "loft")
    sources = board.copies.sources_for("loft", board.registration, frozenset({"loft"}))
    assert sources == ()
    board.says("cellar", S.READY)
    [source] = board.copies.sources_for("loft", board.registration, frozenset({"loft"}))
    assert source.node_id == "cellar"


async def test_a_node_that_is_away_is_no_source(board: Board) -> None:
    board.add("local", "cellar", "loft")
    assert board.of("loft") == ["cellar", "local"]
    board.view.mark_offline("cellar")
    assert board.of("loft") == ["local"]


async def test_what_a_node_has_of_an_attempt_before_does_not_count(board: Board) -> None:
    board.add("local", "cellar")
    board.says("cellar", S.READY)
    board.registration = structs.replace(board.registration, attempt=2)
    assert (board.of("local"), board.of("cellar")) == ([], ["local"])


async def test_a_node_that_failed_is_no_source_until_it_tries_again(board: Board) -> None:
    board.add("local", "cellar")
    board.says("local", S.ERROR)
    assert (board.of("local"), board.of("cellar")) == (["cellar"], [])
    board.says("local", S.WANTED)
    assert (board.of("local"), board.of("cellar")) == ([], ["local"])


async def test_no_more_sources_are_named_than_are_ever_asked(board: Board) -> None:
    names = [f"n{number}" for number in range(9)]
    board.add("local", *names)
    assert board.of("n8") == ["n7", "local", "n0", "n1"]
    assert len(board.of("n8")) == MAX_PEER_SOURCES


async def test_where_only_oneself_can_be_dialled_the_hub_is_taken(board: Board) -> None:
    board.add("local", "cellar")
    board.hidden.add("local")
    assert (board.of("local"), board.of("cellar")) == (["cellar"], [])
    board.hidden.add("cellar")
    assert (board.of("local"), board.of("cellar")) == ([], [])


async def test_it_is_told_when_this_may_change(board: Board) -> None:
    board.add("local")
    assert board.says("local", S.DOWNLOADING)
    assert not board.says("local", S.DOWNLOADING)  # only further
    assert board.says("local", S.READY)
    assert board.says("local", S.READY, attempt=2)
    assert board.says("local", S.GONE)


# --- blame -------------------------------------------------------------------------------------------


async def test_who_sent_wrong_bytes_is_copied_from_again_after_a_new_attempt(board: Board) -> None:
    board.add("local", "cellar")
    board.says("local", S.READY)
    assert board.blame("cellar", "local")
    assert board.of("cellar") == []
    board.says("local", S.READY)
    assert board.of("cellar") == []
    board.registration = structs.replace(board.registration, attempt=2)
    board.says("local", S.READY, attempt=2)
    assert board.of("cellar") == ["local"]


async def test_who_had_not_verified_it_is_copied_from_again_when_it_has(board: Board) -> None:
    board.add("local", "cellar", "loft")
    board.says("cellar", S.DOWNLOADING)
    board.blame("loft", "cellar")
    assert board.of("loft") == ["local"]
    board.says("cellar", S.READY)
    assert board.of("loft") == ["local", "cellar"]


async def test_a_model_that_was_deleted_takes_the_blame_with_it(board: Board) -> None:
    board.add("local", "cellar")
    board.says("local", S.READY)
    board.blame("cellar", "local")
    board.says("local", S.GONE)
    board.says("local", S.READY)
    assert board.of("cellar") == ["local"]


async def test_nobody_can_be_blamed_for_what_he_does_not_hold(board: Board) -> None:
    board.add("local", "cellar")
    assert not board.blame("cellar", "local")
    assert not board.blame("cellar", "nobody")
    assert not board.blame("nobody", "local")
