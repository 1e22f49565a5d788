"""Peer sources: the nodes from which a node copies a model, with file tokens."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from msgspec import Struct

from llb.cluster.view import ClusterView
from llb.policy.distribution import ReplicaHolder, assign_peer_sources
from llb.security.file_token import FileToken, derive_key, expiry_of, sign
from llb.store.tables.registrations import Registration
from llb.wire import BadSourceReport, PeerSource, ReplicaReport, ReplicaState

log = logging.getLogger(__name__)

# The node to follow, and the first nodes that hold the model or will hold it soonest.
MAX_PEER_SOURCES = 4


class _BadSource(Struct, frozen=True):
    """State of a replica when it was reported as a bad source."""

    attempt: int
    was_ready: bool


class PeerSources:
    """Assignment of peer sources, from the current state of the view."""

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
        """Callbacks that look up a node by its id.

        `address_of` returns the base URL at which other nodes reach it, empty for the local node, and
        `file_token_secret_of` the secret that it shares with the balancer; None if it cannot be copied from.
        `anchor_of` returns the trust anchor of its TLS certificate.
        """
        self._view = view
        self._get_local_node_id = get_local_node_id
        self._address_of = address_of
        self._file_token_secret_of = file_token_secret_of
        self._anchor_of = anchor_of
        self._clock = clock
        # Keys: node id and model id.
        self._bad_sources: dict[tuple[str, str], _BadSource] = {}
        self._last_states: dict[tuple[str, str], tuple[ReplicaState, int]] = {}
        # Reader, model and source: a node may report only the nodes that it was told to copy from.
        self._offered_sources: set[tuple[str, str, str]] = set()

    # --- assignment ---------------------------------------------------------------------------------

    def sources_for(
        self, node_id: str, registration: Registration, assigned_nodes: frozenset[str]
    ) -> tuple[PeerSource, ...]:
        """Sources from which `node_id`, one of the assigned nodes, copies a model, best first.

        Empty if the node already holds the model, or downloads it from the Hub.
        """
        if self._replica_state(node_id, registration) is ReplicaState.READY:
            return ()
        routes = {
            other: (address, derive_key(secret))
            for other in self._view.nodes
            if (address := self._address_of(other)) is not None
            and (secret := self._file_token_secret_of(other)) is not None
        }
        if not routes.keys() - {node_id}:
            return ()
        plan = assign_peer_sources(self._list_holders(registration, assigned_nodes, frozenset(routes)))
        sources = plan.get(node_id, ())[:MAX_PEER_SOURCES]
        self._offered_sources.update((node_id, registration.model_id, source) for source in sources)
        return tuple(
            PeerSource(
                node_id=source,
                node_name=self._view.nodes[source].hello.name,
                address=routes[source][0],
                tickets=self._sign_file_tokens(routes[source][1], registration, source, node_id),
                anchor=self._anchor_of(source),
            )
            for source in sources
        )

    def _list_holders(
        self, registration: Registration, assigned_nodes: frozenset[str], reachable: frozenset[str]
    ) -> list[ReplicaHolder]:
        holders = []
        for join_order, node in enumerate(self._view.nodes.values()):
            state = self._replica_state(node.id, registration)
            is_ready = state is ReplicaState.READY
            if node.is_online and (is_ready or node.id in assigned_nodes):
                holders.append(
                    ReplicaHolder(
                        node_id=node.id,
                        join_order=join_order,
                        is_ready=is_ready,
                        is_reachable=node.id in reachable,
                        is_local=node.id == self._get_local_node_id(),
                        has_failed=state is ReplicaState.ERROR,
                        sent_bad_data=(node.id, registration.model_id) in self._bad_sources,
                    )
                )
        return holders

    def _replica_state(self, node_id: str, registration: Registration) -> ReplicaState | None:
        """State of the node's replica in the current attempt: an earlier attempt may have had other files."""
        node = self._view.nodes.get(node_id)
        report = node.replicas.get(registration.model_id) if node is not None else None
        return report.state if report is not None and report.attempt == registration.attempt else None

    def _sign_file_tokens(
        self, key: bytes, registration: Registration, source_node_id: str, reader_node_id: str
    ) -> dict[str, str]:
        expires_at = expiry_of(self._clock())
        return {
            file.sha256: sign(
                key,
                FileToken(
                    sha256=file.sha256,
                    from_node=source_node_id,
                    to_node=reader_node_id,
                    expires_at=expires_at,
                ),
            )
            for file in registration.resolved or ()
        }

    # --- reports ------------------------------------------------------------------------------------

    def record_replica_report(self, node_id: str, report: ReplicaReport) -> bool:
        """Record a replica report; returns whether it may change the sources of other nodes."""
        key = (node_id, report.model_id)
        bad_source = self._bad_sources.get(key)
        if bad_source is not None:
            # The node passed the bytes on before it had verified them, and now it has.
            is_verified_now = report.state is ReplicaState.READY and not bad_source.was_ready
            is_gone = report.state is ReplicaState.GONE
            if is_verified_now or is_gone or report.attempt != bad_source.attempt:
                del self._bad_sources[key]
        state = (report.state, report.attempt)
        last_state = self._last_states.get(key)
        if report.state is ReplicaState.GONE:
            self._last_states.pop(key, None)
        else:
            self._last_states[key] = state
        return state != last_state

    def record_bad_source(self, reporter_id: str, bad_source: BadSourceReport) -> bool:
        """Exclude a source of wrong bytes until it has downloaded the model again.

        False if the source is unknown, or the reporter was never told to copy the model from it.
        """
        reader, source = self._view.nodes.get(reporter_id), self._view.nodes.get(bad_source.node_id)
        report = source.replicas.get(bad_source.model_id) if source is not None else None
        if reader is None or source is None or report is None:
            return False
        if (reader.id, bad_source.model_id, source.id) not in self._offered_sources:
            log.warning(
                "node %s reported node %s as a bad source of model %s, from which it was never told to copy; "
                "the report is ignored",
                reader.hello.name,
                source.hello.name,
                bad_source.model_id,
            )
            return False
        was_ready = report.state is ReplicaState.READY
        self._bad_sources[source.id, bad_source.model_id] = _BadSource(report.attempt, was_ready)
        log.warning(
            "node %s received wrong bytes of model %s from node %s, which is no source until it has "
            "downloaded the model again%s",
            reader.hello.name,
            bad_source.model_id,
            source.hello.name,
            "; its disk or memory may be failing" if was_ready else "",
        )
        return True
