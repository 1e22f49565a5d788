"""Peer sources of each node as nodes join, download, fail and send wrong bytes."""

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

FILES = tuple(FileSpec(name=f"{sha}.gguf", size_bytes=1, sha256=sha * 32, sources=()) for sha in ("aa", "bb"))


@dataclass
class PeerSourcesFixture:
    """Peer sources over a view that the test fills; nodes in `hidden` have no address."""

    view: ClusterView
    peer_sources: PeerSources
    registration: Registration
    hidden: set[str]
    now: list[float]

    def add_nodes(self, *names: str) -> None:
        for name in names:
            self.view.on_hello(structs.replace(HELLO, node_id=name, name=f"the {name}"))

    def report_state(self, node_id: str, state: ReplicaState, attempt: int = 1) -> bool:
        report = ReplicaReport(model_id="tiny", attempt=attempt, state=state)
        self.view.on_replica_report(node_id, report)
        return self.peer_sources.record_replica_report(node_id, report)

    def report_bad_source(self, reporter_id: str, node_id: str) -> bool:
        return self.peer_sources.record_bad_source(
            reporter_id, BadSourceReport(model_id="tiny", sha256="aa" * 32, node_id=node_id)
        )

    def source_ids_of(self, node_id: str) -> list[str]:
        assigned = frozenset(self.view.nodes)
        return [each.node_id for each in self.peer_sources.sources_for(node_id, self.registration, assigned)]


@pytest.fixture
def fixture(catalog: Path) -> PeerSourcesFixture:
    bus: EventBus[Event] = EventBus()
    models = load_catalog(catalog)
    view = ClusterView(models, bus, lambda _repo: None)
    entry = models.get("tiny")
    assert entry is not None
    hidden: set[str] = set()
    now = [1_800_000_000.0]
    peer_sources = PeerSources(
        view,
        get_local_node_id=lambda: "local",
        address_of=lambda node_id: None if node_id in hidden else f"http://{node_id}:8080",
        file_token_secret_of=lambda node_id: f"the secret of {node_id}",
        clock=lambda: now[0],
    )
    registration = Registration(model_id="tiny", entry=entry, resolved=FILES, created_at=0.0, created_by="t")
    return PeerSourcesFixture(view, peer_sources, registration, hidden, now)


async def test_each_source_is_named_with_a_ticket_for_each_file(fixture: PeerSourcesFixture) -> None:
    fixture.add_nodes("local", "cellar")
    [source] = fixture.peer_sources.sources_for(
        "cellar", fixture.registration, frozenset({"local", "cellar"})
    )
    assert (source.node_name, source.address) == ("the local", "http://local:8080")
    assert set(source.tickets) == {file.sha256 for file in FILES}
    for sha256, token in source.tickets.items():
        claims = verify(derive_key("the secret of local"), token, fixture.now[0])
        assert (claims.sha256, claims.from_node, claims.to_node) == (sha256, "local", "cellar")


async def test_the_same_is_said_for_an_hour(fixture: PeerSourcesFixture) -> None:
    fixture.add_nodes("local", "cellar")
    assigned = frozenset({"local", "cellar"})
    first = fixture.peer_sources.sources_for("cellar", fixture.registration, assigned)
    fixture.now[0] += HOUR_S - 1
    assert fixture.peer_sources.sources_for("cellar", fixture.registration, assigned) == first
    fixture.now[0] += 1
    assert fixture.peer_sources.sources_for("cellar", fixture.registration, assigned) != first


async def test_who_has_it_is_told_of_nobody(fixture: PeerSourcesFixture) -> None:
    fixture.add_nodes("local", "cellar")
    fixture.report_state("cellar", ReplicaState.READY)
    assert (fixture.source_ids_of("cellar"), fixture.source_ids_of("local")) == ([], ["cellar"])


async def test_nodes_that_are_not_to_hold_it_are_copied_from_only_if_they_have_it(
    fixture: PeerSourcesFixture,
) -> None:
    fixture.add_nodes("local", "cellar", "loft")
    sources = fixture.peer_sources.sources_for("loft", fixture.registration, frozenset({"loft"}))
    assert sources == ()
    fixture.report_state("cellar", ReplicaState.READY)
    [source] = fixture.peer_sources.sources_for("loft", fixture.registration, frozenset({"loft"}))
    assert source.node_id == "cellar"


async def test_a_node_that_is_away_is_no_source(fixture: PeerSourcesFixture) -> None:
    fixture.add_nodes("local", "cellar", "loft")
    assert fixture.source_ids_of("loft") == ["cellar", "local"]
    fixture.view.mark_offline("cellar")
    assert fixture.source_ids_of("loft") == ["local"]


async def test_what_a_node_has_of_an_attempt_before_does_not_count(fixture: PeerSourcesFixture) -> None:
    fixture.add_nodes("local", "cellar")
    fixture.report_state("cellar", ReplicaState.READY)
    fixture.registration = structs.replace(fixture.registration, attempt=2)
    assert (fixture.source_ids_of("local"), fixture.source_ids_of("cellar")) == ([], ["local"])


async def test_a_node_that_failed_is_no_source_until_it_tries_again(fixture: PeerSourcesFixture) -> None:
    fixture.add_nodes("local", "cellar")
    fixture.report_state("local", ReplicaState.ERROR)
    assert (fixture.source_ids_of("local"), fixture.source_ids_of("cellar")) == (["cellar"], [])
    fixture.report_state("local", ReplicaState.WANTED)
    assert (fixture.source_ids_of("local"), fixture.source_ids_of("cellar")) == ([], ["local"])


async def test_no_more_sources_are_named_than_are_ever_asked(fixture: PeerSourcesFixture) -> None:
    names = [f"n{number}" for number in range(9)]
    fixture.add_nodes("local", *names)
    assert fixture.source_ids_of("n8") == ["n7", "local", "n0", "n1"]
    assert len(fixture.source_ids_of("n8")) == MAX_PEER_SOURCES


async def test_where_only_oneself_can_be_dialled_the_hub_is_taken(fixture: PeerSourcesFixture) -> None:
    fixture.add_nodes("local", "cellar")
    fixture.hidden.add("local")
    assert (fixture.source_ids_of("local"), fixture.source_ids_of("cellar")) == (["cellar"], [])
    fixture.hidden.add("cellar")
    assert (fixture.source_ids_of("local"), fixture.source_ids_of("cellar")) == ([], [])


async def test_it_is_told_when_this_may_change(fixture: PeerSourcesFixture) -> None:
    fixture.add_nodes("local")
    assert fixture.report_state("local", ReplicaState.DOWNLOADING)
    # Only the progress has changed.
    assert not fixture.report_state("local", ReplicaState.DOWNLOADING)
    assert fixture.report_state("local", ReplicaState.READY)
    assert fixture.report_state("local", ReplicaState.READY, attempt=2)
    assert fixture.report_state("local", ReplicaState.GONE)


# --- bad sources ----------------------------------------------------------------------------------


async def test_who_sent_wrong_bytes_is_copied_from_again_after_a_new_attempt(
    fixture: PeerSourcesFixture,
) -> None:
    fixture.add_nodes("local", "cellar")
    fixture.report_state("local", ReplicaState.READY)
    assert fixture.source_ids_of("cellar") == ["local"]
    assert fixture.report_bad_source("cellar", "local")
    assert fixture.source_ids_of("cellar") == []
    fixture.report_state("local", ReplicaState.READY)
    assert fixture.source_ids_of("cellar") == []
    fixture.registration = structs.replace(fixture.registration, attempt=2)
    fixture.report_state("local", ReplicaState.READY, attempt=2)
    assert fixture.source_ids_of("cellar") == ["local"]


async def test_who_had_not_verified_it_is_copied_from_again_when_it_has(fixture: PeerSourcesFixture) -> None:
    fixture.add_nodes("local", "cellar", "loft")
    fixture.report_state("cellar", ReplicaState.DOWNLOADING)
    assert fixture.source_ids_of("loft") == ["cellar", "local"]
    assert fixture.report_bad_source("loft", "cellar")
    assert fixture.source_ids_of("loft") == ["local"]
    fixture.report_state("cellar", ReplicaState.READY)
    assert fixture.source_ids_of("loft") == ["local", "cellar"]


async def test_a_model_that_was_deleted_takes_the_blame_with_it(fixture: PeerSourcesFixture) -> None:
    fixture.add_nodes("local", "cellar")
    fixture.report_state("local", ReplicaState.READY)
    assert fixture.source_ids_of("cellar") == ["local"]
    assert fixture.report_bad_source("cellar", "local")
    fixture.report_state("local", ReplicaState.GONE)
    fixture.report_state("local", ReplicaState.READY)
    assert fixture.source_ids_of("cellar") == ["local"]


async def test_nobody_can_be_blamed_for_what_he_does_not_hold(fixture: PeerSourcesFixture) -> None:
    fixture.add_nodes("local", "cellar")
    assert not fixture.report_bad_source("cellar", "local")
    assert not fixture.report_bad_source("cellar", "nobody")
    assert not fixture.report_bad_source("nobody", "local")


async def test_a_node_reports_only_the_sources_that_it_was_given(fixture: PeerSourcesFixture) -> None:
    fixture.add_nodes("local", "cellar", "loft")
    fixture.report_state("local", ReplicaState.READY)
    fixture.report_state("loft", ReplicaState.READY)
    # It holds the model, so it has no source to copy from.
    assert fixture.source_ids_of("loft") == []
    assert not fixture.report_bad_source("loft", "local")
    assert "local" in fixture.source_ids_of("cellar")
