"""From which nodes a node is to copy a model, with the tickets for it; and who has sent wrong bytes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from llb.cluster.view import ClusterView
from llb.decide.sources import Holder, sources
from llb.store.registrations import Registration
from llb.tickets import Ticket, expiry, key_of, sign
from llb.wire import Blame, CopySource, ReplicaReport, ReplicaState

log = logging.getLogger(__name__)

MAX_SOURCES = 4  # whom to follow, and the first in order: who has the model, or will have it first


@dataclass(frozen=True)
class _Blamed:
    """What a replica was when it was blamed."""

    attempt: int
    ready: bool


class Copies:
    """Says who copies from whom, by what the view knows now."""

    def __init__(
        self,
        view: ClusterView,
        *,
        local_node_id: Callable[[], str],
        address_of: Callable[[str], str | None],
        ticket_secret_of: Callable[[str], str | None],
        anchor_of: Callable[[str], str] = lambda _node_id: "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`address_of` is the base URL where the other nodes reach a node, empty for our own; `ticket_secret_of` is what only
        the node and we know. None for one that cannot be copied from. `anchor_of`: by what a node is believed over TLS."""
        self._view = view
        self._local_node_id = local_node_id
        self._address_of = address_of
        self._ticket_secret_of = ticket_secret_of
        self._anchor_of = anchor_of
        self._clock = clock
        self._blamed: dict[tuple[str, str], _Blamed] = {}  # by node and model
        self._heard: dict[tuple[str, str], tuple[ReplicaState, int]] = {}

    # --- what nodes are told ------------------------------------------------------------------------

    def sources(
        self, node_id: str, registration: Registration, placed: frozenset[str]
    ) -> tuple[CopySource, ...]:
        """Where `node_id`, one of the nodes `placed`, copies a model from, best first; empty if it takes the Hub or has it."""
        if self._state(node_id, registration) is ReplicaState.READY:
            return ()
        ways = {
            other: (address, key_of(secret))
            for other in self._view.nodes
            if (address := self._address_of(other)) is not None
            and (secret := self._ticket_secret_of(other)) is not None
        }
        if not ways.keys() - {node_id}:
            return ()
        plan = sources(self._holders(registration, placed, frozenset(ways)))
        return tuple(
            CopySource(
                node_id=source,
                node_name=self._view.nodes[source].hello.name,
                address=ways[source][0],
                tickets=self._tickets(ways[source][1], registration, source, node_id),
                anchor=self._anchor_of(source),
            )
            for source in plan.get(node_id, ())[:MAX_SOURCES]
        )

    def _holders(
        self, registration: Registration, placed: frozenset[str], dialable: frozenset[str]
    ) -> list[Holder]:
        holders = []
        for joined, node in enumerate(self._view.nodes.values()):
            state = self._state(node.id, registration)
            ready = state is ReplicaState.READY
            if node.online and (ready or node.id in placed):
                holders.append(
                    Holder(
                        node_id=node.id,
                        joined=joined,
                        ready=ready,
                        dialable=node.id in dialable,
                        local=node.id == self._local_node_id(),
                        failed=state is ReplicaState.ERROR,
                        blamed=(node.id, registration.model_id) in self._blamed,
                    )
                )
        return holders

    def _state(self, node_id: str, registration: Registration) -> ReplicaState | None:
        """How far the node is with this attempt at the model; one before may have been at other files."""
        node = self._view.nodes.get(node_id)
        report = node.replicas.get(registration.model_id) if node is not None else None
        return report.state if report is not None and report.attempt == registration.attempt else None

    def _tickets(self, key: bytes, registration: Registration, source: str, reader: str) -> dict[str, str]:
        end = expiry(self._clock())
        return {
            file.sha256: sign(
                key, Ticket(sha256=file.sha256, from_node=source, to_node=reader, expires_at=end)
            )
            for file in registration.resolved or ()
        }

    # --- what nodes tell ----------------------------------------------------------------------------

    def heard(self, node_id: str, report: ReplicaReport) -> bool:
        """A node told of a replica: whether this may change from whom others copy."""
        here = (node_id, report.model_id)
        blamed = self._blamed.get(here)
        if blamed is not None:
            # It had not verified what it passed on, and now it has.
            verified = report.state is ReplicaState.READY and not blamed.ready
            if verified or report.attempt != blamed.attempt or report.state is ReplicaState.GONE:
                del self._blamed[here]
        now = (report.state, report.attempt)
        before = self._heard.get(here)
        if report.state is ReplicaState.GONE:
            self._heard.pop(here, None)
        else:
            self._heard[here] = now
        return now != before

    def blame(self, by_node: str, blame: Blame) -> bool:
        """Let nobody copy the model from the blamed node until it has fetched it anew; False if there is no such replica."""
        reader, source = self._view.nodes.get(by_node), self._view.nodes.get(blame.node_id)
        report = source.replicas.get(blame.model_id) if source is not None else None
        if reader is None or source is None or report is None:
            return False
        ready = report.state is ReplicaState.READY
        self._blamed[source.id, blame.model_id] = _Blamed(report.attempt, ready)
        log.warning(
            "node %s was sent wrong bytes of model %s by node %s: nobody copies it from there until it was fetched there anew%s",
            reader.hello.name,
            blame.model_id,
            source.hello.name,
            "; its disk or memory may be failing" if ready else "",
        )
        return True
