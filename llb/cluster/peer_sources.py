"""From which nodes a node is to copy a model, with the tickets for it; and who has sent wrong bytes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from llb.cluster.view import ClusterView
from llb.policy.distribution import ReplicaHolder, assign_peer_sources
from llb.security.file_token import FileToken, derive_key, expiry_of, sign
from llb.store.tables.registrations import Registration
from llb.wire import BadSourceReport, PeerSource, ReplicaReport, ReplicaState

log = logging.getLogger(__name__)

MAX_PEER_SOURCES = 4  # whom to follow, and the first in order: who has the model, or will have it first


@dataclass(frozen=True)
class _BadSource:
    """What a replica was when it was blamed."""

    attempt: int
    was_ready: bool


class PeerSources:
    """Says who copies from whom, by what the view knows now."""

    def __init__(
        self,
        view: ClusterView,
        *,
        get_local_node_id: Callable[[], str],
        address_of: Callable[[str], str | None],
        file_token_secret_of: Callable[[str], str | None],
        anchor_of: Callable[[str], str] = lambda _node_id: "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`address_of` is the base URL where the other nodes reach a node, empty for our own; `ticket_secret_of` is what only
        the node and we know. None for one that cannot be copied from. `anchor_of`: by what a node is believed over TLS."""
        self._view = view
        self._get_local_node_id = get_local_node_id
        self._address_of = address_of
        self._file_token_secret_of = file_token_secret_of
        self._anchor_of = anchor_of
        self._clock = clock
        self._bad_sources: dict[tuple[str, str], _BadSource] = {}  # by node and model
        self._last_states: dict[tuple[str, str], tuple[ReplicaState, int]] = {}

    # --- what nodes are told ------------------------------------------------------------------------

    def sources_for(
        self, node_id: str, registration: Registration, assigned_nodes: frozenset[str]
    ) -> tuple[PeerSource, ...]:
        """Where `node_id`, one of the nodes `placed`, copies a model from, best first; empty if it takes the Hub or has it."""
        if self._replica_state(node_id, registration) is ReplicaState.READY:
            return ()
        ways = {
            other: (address, derive_key(secret))
            for other in self._view.nodes
            if (address := self._address_of(other)) is not None
            and (secret := self._file_token_secret_of(other)) is not None
        }
        if not ways.keys() - {node_id}:
            return ()
        plan = assign_peer_sources(self._list_holders(registration, assigned_nodes, frozenset(ways)))
        return tuple(
            PeerSource(
                node_id=source,
                node_name=self._view.nodes[source].hello.name,
                address=ways[source][0],
                tickets=self._sign_file_tokens(ways[source][1], registration, source, node_id),
                anchor=self._anchor_of(source),
            )
            for source in plan.get(node_id, ())[:MAX_PEER_SOURCES]
        )

    def _list_holders(
        self, registration: Registration, assigned_nodes: frozenset[str], reachable: frozenset[str]
    ) -> list[ReplicaHolder]:
        holders = []
        for joined, node in enumerate(self._view.nodes.values()):
            state = self._replica_state(node.id, registration)
            ready = state is ReplicaState.READY
            if node.is_online and (ready or node.id in assigned_nodes):
                holders.append(
                    ReplicaHolder(
                        node_id=node.id,
                        join_order=joined,
                        is_ready=ready,
                        is_reachable=node.id in reachable,
                        is_local=node.id == self._get_local_node_id(),
                        has_failed=state is ReplicaState.ERROR,
                        sent_bad_data=(node.id, registration.model_id) in self._bad_sources,
                    )
                )
        return holders

    def _replica_state(self, node_id: str, registration: Registration) -> ReplicaState | None:
        """How far the node is with this attempt at the model; one before may have been at other files."""
        node = self._view.nodes.get(node_id)
        report = node.replicas.get(registration.model_id) if node is not None else None
        return report.state if report is not None and report.attempt == registration.attempt else None

    def _sign_file_tokens(
        self, key: bytes, registration: Registration, source_node_id: str, reader_node_id: str
    ) -> dict[str, str]:
        end = expiry_of(self._clock())
        return {
            file.sha256: sign(
                key,
                FileToken(
                    sha256=file.sha256, from_node=source_node_id, to_node=reader_node_id, expires_at=end
                ),
            )
            for file in registration.resolved or ()
        }

    # --- what nodes tell ----------------------------------------------------------------------------

    def record_replica_report(self, node_id: str, report: ReplicaReport) -> bool:
        """A node told of a replica: whether this may change from whom others copy."""
        here = (node_id, report.model_id)
        blamed = self._bad_sources.get(here)
        if blamed is not None:
            # It had not verified what it passed on, and now it has.
            verified = report.state is ReplicaState.READY and not blamed.was_ready
            if verified or report.attempt != blamed.attempt or report.state is ReplicaState.GONE:
                del self._bad_sources[here]
        now = (report.state, report.attempt)
        before = self._last_states.get(here)
        if report.state is ReplicaState.GONE:
            self._last_states.pop(here, None)
        else:
            self._last_states[here] = now
        return now != before

    def record_bad_source(self, reporter_id: str, bad_source: BadSourceReport) -> bool:
        """Let nobody copy the model from the blamed node until it has fetched it anew; False if there is no such replica."""
        reader, source = self._view.nodes.get(reporter_id), self._view.nodes.get(bad_source.node_id)
        report = source.replicas.get(bad_source.model_id) if source is not None else None
        if reader is None or source is None or report is None:
            return False
        ready = report.state is ReplicaState.READY
        self._bad_sources[source.id, bad_source.model_id] = _BadSource(report.attempt, ready)
        log.warning(
            "node %s was sent wrong bytes of model %s by node %s: nobody copies it from there until it was fetched there anew%s",
            reader.hello.name,
            bad_source.model_id,
            source.hello.name,
            "; its disk or memory may be failing" if ready else "",
        )
        return True
