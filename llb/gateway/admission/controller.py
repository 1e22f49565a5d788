"""Admission control: which requests get a slot of an engine, which wait, and in which order.

The balancer alone owns the slots of all nodes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from msgspec import Struct

from llb.errors import NoNodeAvailable, QueueFull, QueueTimeout
from llb.gateway.admission.model_queue import (
    ModelQueue,
    NodeSelector,
    NodeSlots,
    QueuedRequest,
    no_node_error,
)
from llb.policy.routing import DEFAULT_LOAD_S, RequestEstimate, SharedSlots, Throughput, select_node

# Limit for all models together: queues of large requests would otherwise fill the memory.
MAX_QUEUED_BYTES = 1 << 30


class NodeSlotUsage(Struct, frozen=True):
    """Slots of one node for one model, and how many of them are busy."""

    node_id: str
    slots: int
    busy: int


class ModelQueueSnapshot(Struct, frozen=True):
    """Queue depth and slot usage of one model, for metrics."""

    model_id: str
    queued: int
    nodes: tuple[NodeSlotUsage, ...]


class SlotReservation(Struct, eq=False):
    """One reserved slot, until `release()`."""

    _admission: AdmissionController
    _queue: ModelQueue
    _node: NodeSlots
    _request: RequestEstimate
    # Busy slots of the node, this one included.
    _busy_at_start: int
    # The node that the slot belongs to.
    node_id: str
    queued_ms: int = 0
    _is_released: bool = False

    @property
    def mean_busy_slots(self) -> float:
        """Approximate mean number of the node's busy slots since the reservation, before its release."""
        return (self._busy_at_start + self._node.busy) / 2

    def release(self) -> None:
        """Free the slot; idempotent."""
        if not self._is_released:
            self._is_released = True
            self._queue.release_slot(self._node, self._request)
            if self._node.shared is not None:
                self._admission.grant_shared_slots(self.node_id)
            if not self._queue.nodes:
                self._admission.discard_if_empty(self._queue)


class AdmissionController:
    """Slots of every node and model, and a bounded queue per model."""

    def __init__(
        self,
        max_queue: int,
        queue_timeout_s: float,
        *,
        on_load_wanted: Callable[[str, str], None] = lambda _node_id, _model_id: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`on_load_wanted` gets a node and a model whose load would shorten a queue that does not empty."""
        self._clock = clock
        self._on_load_wanted = on_load_wanted
        self._max_queue = max_queue
        self._queue_timeout_s = queue_timeout_s
        self._queues: dict[str, ModelQueue] = {}
        # Queues with waiting requests; there may be thousands of queues.
        self._waiting_queues: set[ModelQueue] = set()
        self._closed = False

    def set_max_queue(self, max_queue: int) -> None:
        """Set how many requests may wait for a model; those that wait already stay."""
        self._max_queue = max_queue

    def set_queue_timeout(self, queue_timeout_s: float) -> None:
        """Set how long requests wait from now on; those that wait already keep their time."""
        self._queue_timeout_s = queue_timeout_s

    async def reserve_slot(
        self,
        model_id: str,
        *,
        key_id: str,
        owner_id: str | None = None,
        request: RequestEstimate | None = None,
        select_node: NodeSelector = select_node,
        exclude: frozenset[str] = frozenset(),
        timeout_s: float | None = None,
        body_bytes: int = 0,
    ) -> SlotReservation:
        """Wait for a slot on one of the model's nodes except `exclude`, and reserve it.

        Owners take turns, and within an owner the keys; without `owner_id` the key is its own owner.
        `body_bytes` is the size of the request's body, which stays in memory meanwhile. Raises
        `NoNodeAvailable` if there is no such node, `QueueFull`, or `QueueTimeout` after `timeout_s`. A
        cancelled caller holds no slot.
        """
        request = RequestEstimate() if request is None else request
        owner_id = key_id if owner_id is None else owner_id
        reservation = self.reserve_free_slot(
            model_id,
            key_id=key_id,
            owner_id=owner_id,
            request=request,
            select_node=select_node,
            exclude=exclude,
        )
        if reservation is not None:
            return reservation
        queue = self._queue_for(model_id, exclude)
        queued_request = QueuedRequest(
            owner_id, key_id, request, select_node, exclude, self._clock(), body_bytes
        )
        node = await self._wait_for_slot(
            queue, queued_request, self._queue_timeout_s if timeout_s is None else timeout_s
        )
        queued_ms = int((self._clock() - queued_request.queued_at) * 1000)
        return SlotReservation(self, queue, node, request, node.busy, node.node_id, queued_ms)

    def reserve_free_slot(
        self,
        model_id: str,
        *,
        key_id: str,
        owner_id: str,
        request: RequestEstimate,
        select_node: NodeSelector = select_node,
        exclude: frozenset[str] = frozenset(),
    ) -> SlotReservation | None:
        """Like `reserve_slot`, without a wait: None if no slot is free for the request."""
        queue = self._queue_for(model_id, exclude)
        if queue.queued or request.requests_ahead or request.waited_s:
            request.requests_ahead = queue.count_requests_ahead(owner_id, key_id)
            request.waited_s = 0.0
        # Overtakes no one: no queued request wants a free slot (`ModelQueue.grant_free_slots`).
        node = queue.acquire_slot(request, select_node, exclude)
        return None if node is None else SlotReservation(self, queue, node, request, node.busy, node.node_id)

    def select_node_without_slot(self, model_id: str, exclude: frozenset[str] = frozenset()) -> str:
        """Return the id of a node, except `exclude`, for a request that needs no slot. It never waits.

        Raises `NoNodeAvailable`.
        """
        node = self._queue_for(model_id, exclude).select_without_slot(exclude)
        if node is None:
            raise no_node_error()
        return node.node_id

    def set_capacity(
        self,
        node_id: str,
        model_id: str,
        slots: int,
        *,
        loaded: bool = True,
        load_s: float = DEFAULT_LOAD_S,
        context_length: int | None = None,
        throughput: Throughput | None = None,
        priority: int = 0,
        weight: float = 1.0,
        shared: SharedSlots | None = None,
    ) -> None:
        """Set how many requests of a model a node takes at a time, and grant new slots to queued requests.

        With 0 slots the node has none now, but will later. `load_s` is the time to load the model if it is
        not `loaded`; `context_length` is that of one slot, in tokens. `priority`, `weight` and `shared` are
        those of `RoutingCandidate`.
        """
        if self._closed:
            return
        queue = self._queues.get(model_id)
        if queue is None:
            queue = self._queues[model_id] = ModelQueue(model_id, self._clock, self._on_load_wanted)
        queue.set_node(
            node_id,
            slots,
            loaded=loaded,
            load_s=load_s,
            context_length=context_length,
            throughput=throughput,
            priority=priority,
            weight=weight,
            shared=shared,
        )

    def grant_shared_slots(self, endpoint_id: str) -> None:
        """Grant slots of an endpoint to the requests that wait for any of its models."""
        for queue in tuple(self._waiting_queues):
            if endpoint_id in queue.nodes:
                queue.grant_free_slots()

    def find_queue(self, model_id: str) -> ModelQueue | None:
        """Return the queue of a model that places serve, or for which requests wait."""
        return self._queues.get(model_id)

    def serving_node_count(self, model_id: str) -> int:
        """Return the number of nodes that serve a model."""
        queue = self._queues.get(model_id)
        return len(queue.present_nodes) if queue is not None else 0

    def max_context_length(self, model_id: str) -> int | None:
        """Return the longest context of a model on any node, in tokens; None until all have reported it."""
        queue = self._queues.get(model_id)
        return queue.max_context_length if queue is not None else None

    def remove_node(self, node_id: str, model_id: str) -> None:
        """Remove a node from those that serve a model.

        Its reservations stay valid. Queued requests that only this node could serve fail with
        `NoNodeAvailable`.
        """
        queue = self._queues.get(model_id)
        if queue is not None:
            queue.remove_node(node_id)
            self.discard_if_empty(queue)

    def snapshot(self) -> tuple[ModelQueueSnapshot, ...]:
        """Return depth and slot usage of every queue."""
        return tuple(
            ModelQueueSnapshot(
                queue.model_id,
                queue.queued,
                tuple(NodeSlotUsage(node.node_id, node.slots, node.busy) for node in queue.nodes.values()),
            )
            for queue in self._queues.values()
        )

    def close(self) -> None:
        """Reject every queued and every later request; idempotent."""
        self._closed = True
        for queue in tuple(self._queues.values()):
            queue.fail_requests(_shutting_down_error)

    def discard_if_empty(self, queue: ModelQueue) -> None:
        """Forget a queue without nodes and requests."""
        if queue.is_empty and self._queues.get(queue.model_id) is queue:
            del self._queues[queue.model_id]

    def _queue_for(self, model_id: str, exclude: frozenset[str]) -> ModelQueue:
        if self._closed:
            raise _shutting_down_error()
        queue = self._queues.get(model_id)
        if queue is None or not (queue.can_serve(exclude) if exclude else queue.present_nodes):
            raise no_node_error()
        return queue

    async def _wait_for_slot(
        self, queue: ModelQueue, queued_request: QueuedRequest, timeout_s: float
    ) -> NodeSlots:
        self._enqueue(queue, queued_request)
        timer = asyncio.get_running_loop().call_later(timeout_s, _time_out, queue, queued_request, timeout_s)
        slot = queued_request.slot_future
        try:
            return await slot
        except asyncio.CancelledError:
            if slot.cancelled():
                queue.dequeue(queued_request)
            elif slot.exception() is None:
                # The request was granted a slot and cancelled in the same iteration of the loop: pass the
                # slot on.
                queue.release_slot(slot.result(), queued_request.request)
            raise
        finally:
            timer.cancel()
            if not queue.queued:
                self._waiting_queues.discard(queue)
            self.discard_if_empty(queue)

    def _enqueue(self, queue: ModelQueue, queued_request: QueuedRequest) -> None:
        if queue.queued >= self._max_queue:
            message = f"Too many requests wait for model '{queue.model_id}' ({queue.queued})"
        elif self._queued_bytes() + queued_request.body_bytes > MAX_QUEUED_BYTES:
            message = "The requests that wait are too large together"
        else:
            queue.enqueue(queued_request)
            self._waiting_queues.add(queue)
            return
        error = QueueFull(message)
        error.retry_after_s = queue.retry_after_s()
        raise error

    def _queued_bytes(self) -> int:
        return sum(queue.queued_bytes for queue in self._waiting_queues)


def _time_out(queue: ModelQueue, queued_request: QueuedRequest, timeout_s: float) -> None:
    error = QueueTimeout(f"No slot became free within {timeout_s:g} s")
    error.retry_after_s = queue.retry_after_s()
    queue.fail_request(queued_request, error)


def _shutting_down_error() -> NoNodeAvailable:
    return NoNodeAvailable("llb is stopping")
