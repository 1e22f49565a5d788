"""Fair queue of one model: its slots and the requests that wait for them.

Owners take turns, and within an owner the keys do; within a key requests are served in order of arrival. So
more keys do not bring an owner more turns. Nothing here awaits, so every grant and every release is atomic on
the event loop.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from itertools import zip_longest

from llb.errors import NoNodeAvailable, QueueFull
from llb.policy.routing import (
    DEFAULT_LOAD_S,
    CandidateTable,
    RequestEstimate,
    RoutingCandidate,
    SharedSlots,
    Throughput,
    ring_samples,
)

NodeSelector = Callable[[Sequence[RoutingCandidate], RequestEstimate], RoutingCandidate | None]

RETRY_AFTER_MIN_S, RETRY_AFTER_MAX_S = 1, 60
# Weight of the newest gap between two completions in the drain rate
DRAIN_EWMA_WEIGHT = 0.2
MIN_RECHECK_DELAY_S = 1.0


class NodeSlots(RoutingCandidate, eq=False):
    """Slots of one node for one model. The object outlives the node's removal while slots are reserved."""

    slots: int = 0
    busy: int = 0
    loaded: bool = False
    is_present: bool = False

    def reserve(self, request: RequestEstimate) -> None:
        self.busy += 1
        if self.shared is not None:
            self.shared.busy += 1
        self.prompt_tokens += request.prompt_tokens
        self.completion_tokens += request.completion_tokens

    def release(self, request: RequestEstimate) -> None:
        self.busy -= 1
        if self.shared is not None:
            self.shared.busy -= 1
        self.prompt_tokens -= request.prompt_tokens
        self.completion_tokens -= request.completion_tokens


class QueuedRequest:
    """Request that waits for a slot.

    `recheck_timer` runs while the request leaves a free slot unused because its model would have to be loaded
    first.
    """

    __slots__ = (
        "body_bytes",
        "exclude",
        "key_id",
        "owner_id",
        "queued_at",
        "recheck_timer",
        "request",
        "select_node",
        "slot_future",
    )

    def __init__(
        self,
        owner_id: str,
        key_id: str,
        request: RequestEstimate,
        select_node: NodeSelector,
        exclude: frozenset[str],
        queued_at: float,
        body_bytes: int = 0,
    ) -> None:
        self.owner_id = owner_id
        self.key_id = key_id
        self.body_bytes = body_bytes
        self.request = request
        self.select_node = select_node
        self.exclude = exclude
        self.queued_at = queued_at
        self.recheck_timer: asyncio.TimerHandle | None = None
        self.slot_future: asyncio.Future[NodeSlots] = asyncio.get_running_loop().create_future()


class _OwnerQueue:
    """Queued requests of one owner, by key; the keys take turns."""

    __slots__ = ("_requests_by_key",)

    def __init__(self) -> None:
        self._requests_by_key: OrderedDict[str, deque[QueuedRequest]] = OrderedDict()

    def append(self, queued_request: QueuedRequest) -> None:
        self._requests_by_key.setdefault(queued_request.key_id, deque()).append(queued_request)

    def remove(self, queued_request: QueuedRequest) -> None:
        requests = self._requests_by_key[queued_request.key_id]
        requests.remove(queued_request)
        if not requests:
            del self._requests_by_key[queued_request.key_id]

    def move_to_end(self, key_id: str) -> None:
        """Let the other keys take their turns before this one."""
        if key_id in self._requests_by_key:
            self._requests_by_key.move_to_end(key_id)

    def in_turn(self) -> Iterator[QueuedRequest]:
        """Yield the requests in the order in which they are served. Not to be resumed after a change."""
        for one_of_each in zip_longest(*self._requests_by_key.values()):
            yield from (request for request in one_of_each if request is not None)

    def count_ahead_of(self, key_id: str) -> int:
        """Return how many of these requests are served before a new one of this key."""
        own_requests = len(self._requests_by_key.get(key_id, ()))
        return sum(min(len(requests), own_requests + 1) for requests in self._requests_by_key.values())

    @property
    def is_empty(self) -> bool:
        return not self._requests_by_key


class ModelQueue:
    """Nodes and queued requests of one model.

    Endpoints have thousands of models, so a queue without requests must take little memory.
    """

    __slots__ = (
        "_clock",
        "_completion_gap_s",
        "_gap_started_at",
        "_nonempty_since",
        "_on_load_wanted",
        "_queues_by_owner",
        "_table",
        "max_context_length",
        "model_id",
        "nodes",
        "present_nodes",
        "queued",
        "queued_bytes",
    )

    def __init__(
        self,
        model_id: str,
        clock: Callable[[], float],
        on_load_wanted: Callable[[str, str], None] = lambda _node_id, _model_id: None,
    ) -> None:
        """`on_load_wanted` gets a node that should load a model, because the queue does not empty."""
        self.model_id = model_id
        self.nodes: dict[str, NodeSlots] = {}
        self.queued = 0
        # of request bodies, which stay in memory meanwhile
        self.queued_bytes = 0
        self.present_nodes: tuple[NodeSlots, ...] = ()
        # Longest context of the present nodes, in tokens; None while one of them has not reported its own.
        self.max_context_length: int | None = None
        # Table of the present nodes, rebuilt for the first request after a change.
        self._table: CandidateTable | None = None
        self._clock = clock
        self._on_load_wanted = on_load_wanted
        self._nonempty_since: float | None = None
        # In the order of their turns, the next one first.
        self._queues_by_owner: dict[str, _OwnerQueue] = {}
        # between two completions while requests wait (EWMA)
        self._completion_gap_s: float | None = None
        self._gap_started_at: float | None = None

    # --- slots ---

    def acquire_slot(
        self, request: RequestEstimate, select_node: NodeSelector, exclude: frozenset[str]
    ) -> NodeSlots | None:
        """Reserve a slot that `select_node` chose; None if it chose none.

        Raises ValueError for a wrong choice.
        """
        candidates = self._candidates if self._table is None else self._table
        selected = select_node(candidates.without(exclude) if exclude else candidates, request)
        if selected is None:
            return None
        node = self.nodes.get(selected.node_id)
        if node is None or node is not selected or node.free_slots <= 0:
            raise ValueError(f"the selected node {selected.node_id} is not a candidate")
        node.reserve(request)
        candidates.update(node)
        return node

    def release_slot(self, node: NodeSlots, request: RequestEstimate) -> None:
        """Free a slot and grant it to a queued request."""
        node.release(request)
        # The throughput of this answer was recorded before.
        if self._table is not None:
            self._table.update(node)
        if not node.is_present:
            self._discard_if_gone(node)
        if self.queued or self._gap_started_at is not None:
            self._measure_completion_gap()
        if self.queued:
            # Requests that left this slot unused because the model is not loaded have no new reason to take
            # it.
            self.grant_free_slots(loaded_only=node.loaded)

    def grant_free_slots(self, *, loaded_only: bool = False) -> None:
        """Grant free slots to queued requests, until none of them wants a slot that is free."""
        has_progress = self.queued > 0
        while has_progress and any(
            node.free_slots > 0 and (node.loaded or not loaded_only) for node in self.present_nodes
        ):
            has_progress = any(
                self._grant_to_owner(owner_id, position)
                for position, owner_id in enumerate(tuple(self._queues_by_owner))
            )

    def _grant_to_owner(self, owner_id: str, owner_position: int) -> bool:
        """Grant a slot to the first request of this owner that wants one; False if none does."""
        for position, queued_request in enumerate(self._queues_by_owner[owner_id].in_turn()):
            if queued_request.slot_future.done():
                # The request was cancelled, but its task has not run yet to leave the queue.
                continue
            queued_request.request.requests_ahead = owner_position + position * len(self._queues_by_owner)
            if self._try_grant(queued_request):
                return True
        return False

    def _try_grant(self, queued_request: QueuedRequest) -> bool:
        """Whether the request has left the queue, with a slot or an error.

        A slot moves its owner behind the others, and its key behind the owner's others.
        """
        queued_request.request.waited_s = self._clock() - queued_request.queued_at
        try:
            node = self.acquire_slot(
                queued_request.request, queued_request.select_node, queued_request.exclude
            )
        except Exception as error:
            # A selector that raises must fail its own request, not the one that released the slot.
            self.fail_request(queued_request, error)
            return True
        if node is None:
            self._schedule_recheck(queued_request)
            return False
        self.dequeue(queued_request)
        owner_queue = self._queues_by_owner.get(queued_request.owner_id)
        if owner_queue is not None:
            self._queues_by_owner[queued_request.owner_id] = self._queues_by_owner.pop(
                queued_request.owner_id
            )
            owner_queue.move_to_end(queued_request.key_id)
        queued_request.slot_future.set_result(node)
        return True

    def _schedule_recheck(self, queued_request: QueuedRequest) -> None:
        """Recheck a request that waits for a loaded slot when a load would have ended."""
        if queued_request.recheck_timer is None:
            loads = [
                node.load_s
                for node in self.present_nodes
                if node.free_slots > 0 and not node.loaded and node.node_id not in queued_request.exclude
            ]
            if loads:
                waited_s = self._clock() - queued_request.queued_at
                left_s = min(loads) - waited_s
                queued_request.recheck_timer = queued_request.slot_future.get_loop().call_later(
                    left_s if left_s > 0 else max(MIN_RECHECK_DELAY_S, waited_s),
                    self._recheck,
                    queued_request,
                )

    def _recheck(self, queued_request: QueuedRequest) -> None:
        queued_request.recheck_timer = None
        if not queued_request.slot_future.done():
            self._try_grant(queued_request)

    # --- queued requests ---

    def enqueue(self, queued_request: QueuedRequest) -> None:
        """Add a request."""
        self._queues_by_owner.setdefault(queued_request.owner_id, _OwnerQueue()).append(queued_request)
        self.queued += 1
        self.queued_bytes += queued_request.body_bytes
        if self._gap_started_at is None:
            self._gap_started_at = self._clock()
        if self._nonempty_since is None:
            self._nonempty_since = self._clock()
        else:
            self._request_load_if_due(self._clock() - self._nonempty_since)
        self._schedule_recheck(queued_request)

    def _request_load_if_due(self, queue_age_s: float) -> None:
        """Request a load once requests have been waiting for as long as it takes.

        A single wait may be too short to justify a load, although the queue never empties.
        """
        idle = [
            node for node in self.present_nodes if node.free_slots > 0 and not node.loaded and not node.busy
        ]
        fastest = min(idle, key=lambda node: node.load_s, default=None)
        if fastest is not None and queue_age_s >= fastest.load_s:
            self._on_load_wanted(fastest.node_id, self.model_id)

    def count_requests_ahead(self, owner_id: str, key_id: str) -> int:
        """Return how many requests are served before a new one of this key, as owners and keys take turns."""
        if not self.queued:
            return 0
        owner_queue = self._queues_by_owner.get(owner_id)
        own_requests = 0 if owner_queue is None else owner_queue.count_ahead_of(key_id)
        return min(self.queued, (own_requests + 1) * len(self._queues_by_owner))

    def dequeue(self, queued_request: QueuedRequest) -> None:
        """Remove a request."""
        if queued_request.recheck_timer is not None:
            queued_request.recheck_timer.cancel()
        owner_queue = self._queues_by_owner[queued_request.owner_id]
        owner_queue.remove(queued_request)
        if owner_queue.is_empty:
            del self._queues_by_owner[queued_request.owner_id]
        self.queued -= 1
        self.queued_bytes -= queued_request.body_bytes
        if not self.queued:
            self._gap_started_at = self._nonempty_since = None

    def fail_request(self, queued_request: QueuedRequest, error: Exception) -> None:
        """Remove a request that still waits; its task gets `error`."""
        if not queued_request.slot_future.done():
            self.dequeue(queued_request)
            queued_request.slot_future.set_exception(error)

    def fail_requests(self, make_error: Callable[[], Exception], *, only_unservable: bool = False) -> None:
        """Fail every request, or only those that no present node could serve."""
        for owner_queue in tuple(self._queues_by_owner.values()):
            for queued_request in tuple(owner_queue.in_turn()):
                if not (only_unservable and self.can_serve(queued_request.exclude)):
                    self.fail_request(queued_request, make_error())

    # --- nodes ---

    def set_node(
        self,
        node_id: str,
        slots: int,
        *,
        loaded: bool,
        load_s: float = DEFAULT_LOAD_S,
        context_length: int | None = None,
        throughput: Throughput | None = None,
        priority: int = 0,
        weight: float = 1.0,
        shared: SharedSlots | None = None,
    ) -> None:
        """Add or update a node; see `AdmissionController.set_capacity`."""
        node = self.nodes.setdefault(node_id, NodeSlots(node_id))
        if node.shared is None and not node.busy:
            node.shared = shared
        arrangement = (node.is_present, node.loaded, node.context_length, node.priority, node.weight)
        before = (node.is_present, node.slots, node.loaded, node.context_length)
        node.is_present, node.slots, node.loaded, node.context_length = True, slots, loaded, context_length
        node.priority, node.weight, node.load_s = priority, weight, load_s
        if throughput is not None:
            node.throughput = throughput
        if arrangement != (True, loaded, context_length, priority, weight):
            self._arrange_nodes()
            if len(self.present_nodes) > 1:
                # Takes a millisecond for a new node; done here so that no request waits for it.
                ring_samples(node_id)
        elif self._table is not None:
            self._table.update(node)
        if (True, slots, loaded, context_length) != before:
            self.grant_free_slots()

    def remove_node(self, node_id: str) -> None:
        """Remove a node and fail the requests that only it could serve."""
        node = self.nodes.get(node_id)
        if node is not None:
            node.is_present, node.slots = False, 0
            self._arrange_nodes()
            self._discard_if_gone(node)
            self.fail_requests(no_node_error, only_unservable=True)
            # Requests that waited for this node may now take a node without the model in memory.
            self.grant_free_slots()

    def _arrange_nodes(self) -> None:
        self.present_nodes = tuple(node for node in self.nodes.values() if node.is_present)
        self._table = None
        known = [node.context_length for node in self.present_nodes if node.context_length is not None]
        self.max_context_length = max(known) if known and len(known) == len(self.present_nodes) else None

    @property
    def _candidates(self) -> CandidateTable:
        if self._table is None:
            self._table = CandidateTable(self.present_nodes)
        return self._table

    def select_without_slot(self, exclude: frozenset[str]) -> NodeSlots | None:
        """Return the least busy node that has the model loaded, else the fastest to load it, or None."""
        candidates = [node for node in self.present_nodes if node.node_id not in exclude and node.slots > 0]
        return min(
            candidates,
            key=lambda node: (0.0, node.busy) if node.loaded else (node.load_s, node.busy),
            default=None,
        )

    def can_serve(self, exclude: frozenset[str]) -> bool:
        """Whether a present node could serve, now or later."""
        if not exclude:
            return bool(self.present_nodes)
        return any(node.node_id not in exclude for node in self.present_nodes)

    def _discard_if_gone(self, node: NodeSlots) -> None:
        if not node.is_present and not node.busy:
            self.nodes.pop(node.node_id, None)

    # --- drain rate ---

    def _measure_completion_gap(self) -> None:
        """Record the gap since the last completion if requests waited through it: idle is not slow."""
        now = self._clock()
        if self._gap_started_at is not None:
            gap_s = now - self._gap_started_at
            self._completion_gap_s = (
                gap_s
                if self._completion_gap_s is None
                else self._completion_gap_s + DRAIN_EWMA_WEIGHT * (gap_s - self._completion_gap_s)
            )
        self._gap_started_at = now if self.queued else None

    def retry_after_s(self) -> int:
        """Return the seconds until the queue has drained: its length times the mean completion gap."""
        min_s, gap_s = RETRY_AFTER_MIN_S, self._completion_gap_s
        if gap_s is None:
            # No request has completed yet.
            min_s, gap_s = QueueFull.retry_after_s or RETRY_AFTER_MIN_S, 0.0
        if self._gap_started_at is not None:
            # The age of the current gap is a lower bound of its length.
            gap_s = max(gap_s, self._clock() - self._gap_started_at)
        return max(min_s, min(RETRY_AFTER_MAX_S, math.ceil((self.queued + 1) * gap_s)))

    @property
    def is_empty(self) -> bool:
        """Whether it has neither nodes nor queued requests."""
        return not self.nodes and not self.queued


def no_node_error() -> NoNodeAvailable:
    return NoNodeAvailable("Every node that holds this model is offline, draining or has failed")
