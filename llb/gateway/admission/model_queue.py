"""One model's slots and the line that waits for them: first come first served within a key, keys in turn.

Nothing here awaits, so every taking and giving back is atomic on the event loop."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llb.errors import NoNodeAvailable, QueueFull
from llb.policy.routing import DEFAULT_LOAD_S, RequestEstimate, RoutingCandidate, Throughput

NodeSelector = Callable[[Sequence[RoutingCandidate], RequestEstimate], RoutingCandidate | None]

RETRY_AFTER_MIN_S, RETRY_AFTER_MAX_S = 1, 60
# Weight of the newest gap between two completions in the drain rate.
DRAIN_EWMA_WEIGHT = 0.2
MIN_RECHECK_DELAY_S = 1.0


@dataclass(slots=True, eq=False)
class NodeSlots(RoutingCandidate):
    """The slots of one node for one model. It outlives its removal while claims are out."""

    slots: int = 0
    busy: int = 0
    loaded: bool = False
    is_present: bool = False

    def reserve(self, request: RequestEstimate) -> None:
        self.busy += 1
        self.prompt_tokens += request.prompt_tokens
        self.completion_tokens += request.completion_tokens

    def release(self, request: RequestEstimate) -> None:
        self.busy -= 1
        self.prompt_tokens -= request.prompt_tokens
        self.completion_tokens -= request.completion_tokens


class QueuedRequest:
    """A request in the line. `look_again` is its timer while it lets a slot pass that it would first have to load."""

    __slots__ = (
        "body_bytes",
        "exclude",
        "key_id",
        "queued_at",
        "recheck_timer",
        "request",
        "select_node",
        "slot_future",
    )

    def __init__(
        self,
        key_id: str,
        request: RequestEstimate,
        select_node: NodeSelector,
        exclude: frozenset[str],
        queued_at: float,
        body_bytes: int = 0,
    ) -> None:
        self.key_id = key_id
        self.body_bytes = body_bytes
        self.request = request
        self.select_node = select_node
        self.exclude = exclude
        self.queued_at = queued_at
        self.recheck_timer: asyncio.TimerHandle | None = None
        self.slot_future: asyncio.Future[NodeSlots] = asyncio.get_running_loop().create_future()


class ModelQueue:
    """One model: its nodes, and those who wait, first come first served within a key, keys in turn."""

    def __init__(
        self,
        model_id: str,
        clock: Callable[[], float],
        on_load_wanted: Callable[[str], None] = lambda _node_id: None,
    ) -> None:
        """`on_wanted` is told of a node that should load the model, because there is a line that does not end."""
        self.model_id = model_id
        self.nodes: dict[str, NodeSlots] = {}
        self.queued = 0
        self.queued_bytes = 0  # of bodies, which stay in memory meanwhile
        self._present_nodes: tuple[NodeSlots, ...] = ()
        self._clock = clock
        self._on_load_wanted = on_load_wanted
        self._nonempty_since: float | None = None  # somebody has been waiting all the time
        self._requests_by_key: OrderedDict[str, deque[QueuedRequest]] = OrderedDict()
        self._completion_gap_s: float | None = None  # between completions while somebody waits (EWMA)
        self._gap_started_at: float | None = None

    # --- taking and giving back; no await anywhere, so each is atomic ---

    def acquire_slot(
        self, request: RequestEstimate, select_node: NodeSelector, exclude: frozenset[str]
    ) -> NodeSlots | None:
        """A slot chosen and marked busy, or None."""
        candidates: Sequence[NodeSlots] = self._present_nodes
        if exclude:
            candidates = [node for node in candidates if node.node_id not in exclude]
        chosen = select_node(candidates, request)
        if chosen is None:
            return None
        node = self.nodes.get(chosen.node_id)
        if node is None or node is not chosen or node.free_slots <= 0:
            raise ValueError(f"the choice {chosen.node_id} is not a candidate")
        node.reserve(request)
        return node

    def release_slot(self, node: NodeSlots, request: RequestEstimate) -> None:
        node.release(request)
        self._discard_if_gone(node)
        self._measure_completion_gap()
        # Who let a slot pass that is not loaded has no new reason to want it: they need not all be asked again.
        self.grant_free_slots(loaded_only=node.loaded)

    def grant_free_slots(self, *, loaded_only: bool = False) -> None:
        """Hand free slots to waiters. Afterwards no waiter wants any slot that is free."""
        progress = self.queued > 0
        while progress and any(
            node.free_slots > 0 and (node.loaded or not loaded_only) for node in self._present_nodes
        ):
            progress = any(
                self._grant_to_key(key_id, turn) for turn, key_id in enumerate(tuple(self._requests_by_key))
            )

    def _grant_to_key(self, key_id: str, key_position: int) -> bool:
        """A slot for the first waiter of this key that wants one."""
        for place, waiter in enumerate(self._requests_by_key[key_id]):
            if waiter.slot_future.done():  # cancelled, and its task has not run yet to leave the line
                continue
            waiter.request.requests_ahead = key_position + place * len(self._requests_by_key)
            if self._try_grant(waiter):
                return True
        return False

    def _try_grant(self, queued_request: QueuedRequest) -> bool:
        """Whether the waiter has left the line, with an error or with a slot; its key then goes to the end of the turns."""
        queued_request.request.waited_s = self._clock() - queued_request.queued_at
        try:
            node = self.acquire_slot(
                queued_request.request, queued_request.select_node, queued_request.exclude
            )
        except Exception as error:  # a broken choice is its own request's failure, not that of who gave back
            self.fail_request(queued_request, error)
            return True
        if node is None:
            self._schedule_recheck(queued_request)
            return False
        self.dequeue(queued_request)
        if queued_request.key_id in self._requests_by_key:
            self._requests_by_key.move_to_end(queued_request.key_id)
        queued_request.slot_future.set_result(node)
        return True

    def _schedule_recheck(self, queued_request: QueuedRequest) -> None:
        """Have who lets a slot pass, because one that is loaded will be free sooner, look again when it should have been."""
        if queued_request.recheck_timer is None:
            loads = [
                node.load_s
                for node in self._present_nodes
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

    # --- waiting ---

    def enqueue(self, queued_request: QueuedRequest) -> None:
        self._requests_by_key.setdefault(queued_request.key_id, deque()).append(queued_request)
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
        """Each of a crowd may wait too short for a load to be worth it to them, and the crowd for ever."""
        idle = [
            node for node in self._present_nodes if node.free_slots > 0 and not node.loaded and not node.busy
        ]
        soonest = min(idle, key=lambda node: node.load_s, default=None)
        if soonest is not None and queue_age_s >= soonest.load_s:
            self._on_load_wanted(soonest.node_id)

    def count_requests_ahead(self, key_id: str) -> int:
        """How many will be served before a request of this key that comes now, for keys take turns."""
        line = self._requests_by_key.get(key_id)
        return min(self.queued, (len(line) + 1 if line is not None else 1) * len(self._requests_by_key))

    def dequeue(self, queued_request: QueuedRequest) -> None:
        if queued_request.recheck_timer is not None:
            queued_request.recheck_timer.cancel()
        line = self._requests_by_key[queued_request.key_id]
        line.remove(queued_request)
        if not line:
            del self._requests_by_key[queued_request.key_id]
        self.queued -= 1
        self.queued_bytes -= queued_request.body_bytes
        if not self.queued:
            self._gap_started_at = self._nonempty_since = None

    def fail_request(self, queued_request: QueuedRequest, error: Exception) -> None:
        if not queued_request.slot_future.done():
            self.dequeue(queued_request)
            queued_request.slot_future.set_exception(error)

    def fail_requests(self, make_error: Callable[[], Exception], *, only_unservable: bool = False) -> None:
        for line in tuple(self._requests_by_key.values()):
            for waiter in tuple(line):
                if not (only_unservable and self.can_serve(waiter.exclude)):
                    self.fail_request(waiter, make_error())

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
    ) -> None:
        node = self.nodes.setdefault(node_id, NodeSlots(node_id))
        before = (node.is_present, node.slots, node.loaded, node.context_length)
        node.is_present, node.slots, node.loaded, node.context_length = True, slots, loaded, context_length
        node.load_s = load_s
        if throughput is not None:
            node.throughput = throughput
        self._update_present_nodes()
        if (True, slots, loaded, context_length) != before:
            self.grant_free_slots()

    def remove_node(self, node_id: str) -> None:
        node = self.nodes.get(node_id)
        if node is not None:
            node.is_present, node.slots = False, 0
            self._update_present_nodes()
            self._discard_if_gone(node)
            self.fail_requests(no_node_error, only_unservable=True)
            self.grant_free_slots()  # who waited for it may now want one that is not loaded

    def _update_present_nodes(self) -> None:
        self._present_nodes = tuple(node for node in self.nodes.values() if node.is_present)

    @property
    def node_count(self) -> int:
        """How many nodes there are to choose from."""
        return len(self._present_nodes)

    def select_without_slot(self, exclude: frozenset[str]) -> NodeSlots | None:
        """The node for what takes no slot: one that has the model loaded, the least busy first; else the soonest to load it."""
        there = [node for node in self._present_nodes if node.node_id not in exclude and node.slots > 0]
        return min(
            there,
            key=lambda node: (0.0, node.busy) if node.loaded else (node.load_s, node.busy),
            default=None,
        )

    def can_serve(self, exclude: frozenset[str]) -> bool:
        """Whether a node is there that could serve, now or later."""
        return any(node.node_id not in exclude for node in self._present_nodes)

    def _discard_if_gone(self, node: NodeSlots) -> None:
        if not node.is_present and not node.busy:
            self.nodes.pop(node.node_id, None)

    # --- how fast it drains ---

    def _measure_completion_gap(self) -> None:
        """A gap counts only if somebody waited through it: an idle engine completes nothing, and that is no slowness."""
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
        """When the queue as it is now will have drained: its length times the mean gap between completions."""
        least_s, gap_s = RETRY_AFTER_MIN_S, self._completion_gap_s
        if gap_s is None:  # nothing has completed yet
            least_s, gap_s = QueueFull.retry_after_s or RETRY_AFTER_MIN_S, 0.0
        if (
            self._gap_started_at is not None
        ):  # what has lasted so long already is a lower bound of the next gap
            gap_s = max(gap_s, self._clock() - self._gap_started_at)
        return max(least_s, min(RETRY_AFTER_MAX_S, math.ceil((self.queued + 1) * gap_s)))

    @property
    def is_empty(self) -> bool:
        return not self.nodes and not self.queued


def no_node_error() -> NoNodeAvailable:
    return NoNodeAvailable("Every node that holds this model is offline, draining or has failed")
