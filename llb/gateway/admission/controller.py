"""Slots and queues: who may use an engine now, who waits, in which order. Owned by the balancer alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from llb.errors import NoNodeAvailable, QueueFull, QueueTimeout
from llb.gateway.admission.model_queue import (
    ModelQueue,
    NodeSelector,
    NodeSlots,
    QueuedRequest,
    no_node_error,
)
from llb.policy.routing import DEFAULT_LOAD_S, RequestEstimate, Throughput, select_node

MAX_QUEUED_BYTES = 1 << 30  # of all models: a queue of the largest requests would fill the memory


@dataclass(frozen=True, slots=True)
class NodeSlotUsage:
    node_id: str
    slots: int
    busy: int


@dataclass(frozen=True, slots=True)
class ModelQueueSnapshot:
    """What admission knows of one model, for metrics."""

    model_id: str
    queued: int
    nodes: tuple[NodeSlotUsage, ...]


class SlotReservation:
    """One slot: `take()` waits for it, `release()` gives it back; `async with` does both."""

    __slots__ = (
        "_admission",
        "_body_bytes",
        "_busy_at_start",
        "_exclude",
        "_key_id",
        "_model_id",
        "_node",
        "_queue",
        "_select_node",
        "_timeout_s",
        "queued_ms",
        "request",
    )

    def __init__(
        self,
        admission: AdmissionController,
        model_id: str,
        key_id: str,
        request: RequestEstimate,
        select_node: NodeSelector,
        exclude: frozenset[str],
        timeout_s: float,
        body_bytes: int,
    ) -> None:
        self.queued_ms = 0
        self.request = request
        self._admission = admission
        self._model_id = model_id
        self._key_id = key_id
        self._select_node = select_node
        self._exclude = exclude
        self._timeout_s = timeout_s
        self._body_bytes = body_bytes
        self._queue: ModelQueue | None = None
        self._node: NodeSlots | None = None
        self._busy_at_start = 0

    @property
    def node_id(self) -> str:
        """The node whose slot this is; only while it is held."""
        if self._node is None:
            raise RuntimeError("the claim holds no slot")
        return self._node.node_id

    @property
    def mean_busy_slots(self) -> float:
        """How many of the node's slots have been busy while this one was, about; only while it is held."""
        if self._node is None:
            raise RuntimeError("the claim holds no slot")
        return (self._busy_at_start + self._node.busy) / 2

    async def __aenter__(self) -> SlotReservation:
        return await self.acquire()

    async def acquire(self) -> SlotReservation:
        """Wait for the slot. Raises as `Admission.claim` says; a caller that is cancelled holds nothing."""
        admission = self._admission
        queue = self._queue = admission.queue_for(self._model_id, self._exclude)
        self.request.requests_ahead, self.request.waited_s = queue.count_requests_ahead(self._key_id), 0.0
        # Whoever waits does not want what is free (`grant`), so taking it overtakes nobody.
        self._node = queue.acquire_slot(self.request, self._select_node, self._exclude)
        if self._node is None:
            began = admission.clock()
            self._node = await self._wait_for_slot(queue)
            self.queued_ms = int((admission.clock() - began) * 1000)
        self._busy_at_start = self._node.busy
        return self

    async def _wait_for_slot(self, queue: ModelQueue) -> NodeSlots:
        now = self._admission.clock()
        waiter = QueuedRequest(
            self._key_id, self.request, self._select_node, self._exclude, now, self._body_bytes
        )
        self._admission.enqueue(queue, waiter)
        timer = asyncio.get_running_loop().call_later(self._timeout_s, self._time_out, queue, waiter)
        try:
            return await waiter.slot_future
        except asyncio.CancelledError:
            granted = waiter.slot_future
            if granted.cancelled():
                queue.dequeue(waiter)
            elif granted.exception() is None:  # and cancelled in the same turn of the loop: pass it on
                queue.release_slot(granted.result(), self.request)
            raise
        finally:
            timer.cancel()
            self._admission.discard_if_empty(queue)

    def _time_out(self, queue: ModelQueue, queued_request: QueuedRequest) -> None:
        error = QueueTimeout(f"No slot became free within {self._timeout_s:g} s")
        error.retry_after_s = queue.retry_after_s()
        queue.fail_request(queued_request, error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the slot back; idempotent."""
        node, self._node = self._node, None
        if node is not None and self._queue is not None:
            self._queue.release_slot(node, self.request)
            self._admission.discard_if_empty(self._queue)


class AdmissionController:
    """The slots of every (node, model) and a bounded queue per model."""

    def __init__(
        self,
        max_queue: int,
        queue_timeout_s: float,
        *,
        on_load_wanted: Callable[[str, str], None] = lambda _node_id, _model_id: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self._on_load_wanted = on_load_wanted
        self._max_queue = max_queue
        self._queue_timeout_s = queue_timeout_s
        self._queues: dict[str, ModelQueue] = {}
        self._closed = False

    def reserve_slot(
        self,
        model_id: str,
        *,
        key_id: str,
        request: RequestEstimate | None = None,
        select_node: NodeSelector = select_node,
        exclude: frozenset[str] = frozenset(),
        timeout_s: float | None = None,
        body_bytes: int = 0,
    ) -> SlotReservation:
        """A slot for `request` on one of the model's nodes but those in `exclude` (already tried). Its body stays in memory
        meanwhile. Taking it raises `NoNodeAvailable` when there is no such node, `QueueFull`, or `QueueTimeout` after
        `timeout_s`."""
        return SlotReservation(
            self,
            model_id,
            key_id,
            RequestEstimate() if request is None else request,
            select_node,
            exclude,
            self._queue_timeout_s if timeout_s is None else timeout_s,
            body_bytes,
        )

    def select_node_without_slot(self, model_id: str, exclude: frozenset[str] = frozenset()) -> str:
        """The id of a node that can answer without a slot, but those in `exclude`: nothing is waited for, and nothing is to be
        given back. Raises `NoNodeAvailable` when there is none."""
        node = self.queue_for(model_id, exclude).select_without_slot(exclude)
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
    ) -> None:
        """This node serves the model with so many slots at a time (0: not now, but it will), each of `context_length`
        tokens; if it is not loaded, in `load_s`. Waiters get what is new."""
        if self._closed:
            return
        queue = self._queues.get(model_id)
        if queue is None:
            queue = self._queues[model_id] = ModelQueue(
                model_id, self.clock, lambda wanted: self._on_load_wanted(wanted, model_id)
            )
        queue.set_node(
            node_id, slots, loaded=loaded, load_s=load_s, context_length=context_length, throughput=throughput
        )

    def serving_node_count(self, model_id: str) -> int:
        """How many nodes serve this model."""
        queue = self._queues.get(model_id)
        return queue.node_count if queue is not None else 0

    def remove_node(self, node_id: str, model_id: str | None = None) -> None:
        """The node no longer serves this model (None: any). Claims that are out stay valid; who can only wait for this
        node is told so with `NoNodeAvailable`."""
        for queue in [self._queues.get(model_id)] if model_id is not None else list(self._queues.values()):
            if queue is not None:
                queue.remove_node(node_id)
                self.discard_if_empty(queue)

    def snapshot(self) -> tuple[ModelQueueSnapshot, ...]:
        """Depth of every queue, slots and busy slots of every (node, model)."""
        return tuple(
            ModelQueueSnapshot(
                queue.model_id,
                queue.queued,
                tuple(NodeSlotUsage(node.node_id, node.slots, node.busy) for node in queue.nodes.values()),
            )
            for queue in self._queues.values()
        )

    def close(self) -> None:
        """Refuse everybody who waits, and who comes later; idempotent."""
        self._closed = True
        for queue in tuple(self._queues.values()):
            queue.fail_requests(shutting_down_error)

    # --- for Claim ---

    def queue_for(self, model_id: str, exclude: frozenset[str]) -> ModelQueue:
        if self._closed:
            raise shutting_down_error()
        queue = self._queues.get(model_id)
        if queue is None or not queue.can_serve(exclude):
            raise no_node_error()
        return queue

    def enqueue(self, queue: ModelQueue, queued_request: QueuedRequest) -> None:
        is_full = queue.queued >= self._max_queue
        if is_full or self._queued_bytes() + queued_request.body_bytes > MAX_QUEUED_BYTES:
            what = f"Too many requests wait for model '{queue.model_id}' ({queue.queued})"
            error = QueueFull(what if is_full else "The requests that wait are too large together")
            error.retry_after_s = queue.retry_after_s()
            raise error
        queue.enqueue(queued_request)

    def _queued_bytes(self) -> int:
        return sum(queue.queued_bytes for queue in self._queues.values())

    def discard_if_empty(self, queue: ModelQueue) -> None:
        if queue.is_empty and self._queues.get(queue.model_id) is queue:
            del self._queues[queue.model_id]


def shutting_down_error() -> NoNodeAvailable:
    return NoNodeAvailable("llb is stopping")
