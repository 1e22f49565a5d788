"""Slots and queues: who may use an engine now, who waits, in which order. Owned by the balancer alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from llb.decide.routing import DEFAULT_LOAD_S, Request, Speed, choose
from llb.errors import NoNodeAvailable, QueueFull, QueueTimeout
from llb.gateway.slots import Choose, ModelQueue, NodeSlots, Waiter, no_node

MAX_WAITING_BYTES = 1 << 30  # of all models: a queue of the largest requests would fill the memory


@dataclass(frozen=True, slots=True)
class SlotCount:
    node_id: str
    slots: int
    busy: int


@dataclass(frozen=True, slots=True)
class ModelAdmission:
    """What admission knows of one model, for metrics."""

    model_id: str
    waiting: int
    nodes: tuple[SlotCount, ...]


class Claim:
    """One slot: `take()` waits for it, `release()` gives it back; `async with` does both."""

    __slots__ = (
        "_admission",
        "_body_bytes",
        "_choose",
        "_exclude",
        "_key_id",
        "_model_id",
        "_node",
        "_queue",
        "_timeout_s",
        "_together",
        "queued_ms",
        "request",
    )

    def __init__(
        self,
        admission: Admission,
        model_id: str,
        key_id: str,
        request: Request,
        choose: Choose,
        exclude: frozenset[str],
        timeout_s: float,
        body_bytes: int,
    ) -> None:
        self.queued_ms = 0
        self.request = request
        self._admission = admission
        self._model_id = model_id
        self._key_id = key_id
        self._choose = choose
        self._exclude = exclude
        self._timeout_s = timeout_s
        self._body_bytes = body_bytes
        self._queue: ModelQueue | None = None
        self._node: NodeSlots | None = None
        self._together = 0

    @property
    def node_id(self) -> str:
        """The node whose slot this is; only while it is held."""
        if self._node is None:
            raise RuntimeError("the claim holds no slot")
        return self._node.node_id

    @property
    def busy(self) -> float:
        """How many of the node's slots have been busy while this one was, about; only while it is held."""
        if self._node is None:
            raise RuntimeError("the claim holds no slot")
        return (self._together + self._node.busy) / 2

    async def __aenter__(self) -> Claim:
        return await self.take()

    async def take(self) -> Claim:
        """Wait for the slot. Raises as `Admission.claim` says; a caller that is cancelled holds nothing."""
        admission = self._admission
        queue = self._queue = admission.queue_for(self._model_id, self._exclude)
        self.request.ahead, self.request.waited_s = queue.ahead(self._key_id), 0.0
        # Whoever waits does not want what is free (`grant`), so taking it overtakes nobody.
        self._node = queue.take(self.request, self._choose, self._exclude)
        if self._node is None:
            began = admission.clock()
            self._node = await self._wait(queue)
            self.queued_ms = int((admission.clock() - began) * 1000)
        self._together = self._node.busy
        return self

    async def _wait(self, queue: ModelQueue) -> NodeSlots:
        now = self._admission.clock()
        waiter = Waiter(self._key_id, self.request, self._choose, self._exclude, now, self._body_bytes)
        self._admission.enter(queue, waiter)
        timer = asyncio.get_running_loop().call_later(self._timeout_s, self._expire, queue, waiter)
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            granted = waiter.granted
            if granted.cancelled():
                queue.leave(waiter)
            elif granted.exception() is None:  # and cancelled in the same turn of the loop: pass it on
                queue.give_back(granted.result(), self.request)
            raise
        finally:
            timer.cancel()
            self._admission.tidy(queue)

    def _expire(self, queue: ModelQueue, waiter: Waiter) -> None:
        error = QueueTimeout(f"No slot became free within {self._timeout_s:g} s")
        error.retry_after_s = queue.retry_after_s()
        queue.fail(waiter, error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the slot back; idempotent."""
        node, self._node = self._node, None
        if node is not None and self._queue is not None:
            self._queue.give_back(node, self.request)
            self._admission.tidy(self._queue)


class Admission:
    """The slots of every (node, model) and a bounded queue per model."""

    def __init__(
        self, max_queue: int, queue_timeout_s: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.clock = clock
        self.on_wanted: Callable[[str, str], None] = lambda _node_id, _model_id: (
            None
        )  # a load would shorten a line
        self._max_queue = max_queue
        self._queue_timeout_s = queue_timeout_s
        self._queues: dict[str, ModelQueue] = {}
        self._closed = False

    def claim(
        self,
        model_id: str,
        *,
        key_id: str,
        request: Request | None = None,
        choose: Choose = choose,
        exclude: frozenset[str] = frozenset(),
        timeout_s: float | None = None,
        body_bytes: int = 0,
    ) -> Claim:
        """A slot for `request` on one of the model's nodes but those in `exclude` (already tried). Its body stays in memory
        meanwhile. Taking it raises `NoNodeAvailable` when there is no such node, `QueueFull`, or `QueueTimeout` after
        `timeout_s`."""
        return Claim(
            self,
            model_id,
            key_id,
            Request() if request is None else request,
            choose,
            exclude,
            self._queue_timeout_s if timeout_s is None else timeout_s,
            body_bytes,
        )

    def visit(self, model_id: str, exclude: frozenset[str] = frozenset()) -> str:
        """The id of a node that can answer without a slot, but those in `exclude`: nothing is waited for, and nothing is to be
        given back. Raises `NoNodeAvailable` when there is none."""
        node = self.queue_for(model_id, exclude).nearest(exclude)
        if node is None:
            raise no_node()
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
        speed: Speed | None = None,
    ) -> None:
        """This node serves the model with so many slots at a time (0: not now, but it will), each of `context_length`
        tokens; if it is not loaded, in `load_s`. Waiters get what is new."""
        if self._closed:
            return
        queue = self._queues.get(model_id)
        if queue is None:
            queue = self._queues[model_id] = ModelQueue(
                model_id, self.clock, lambda wanted: self.on_wanted(wanted, model_id)
            )
        queue.set_node(
            node_id, slots, loaded=loaded, load_s=load_s, context_length=context_length, speed=speed
        )

    def choices(self, model_id: str) -> int:
        """How many nodes serve this model."""
        queue = self._queues.get(model_id)
        return queue.choices if queue is not None else 0

    def remove(self, node_id: str, model_id: str | None = None) -> None:
        """The node no longer serves this model (None: any). Claims that are out stay valid; who can only wait for this
        node is told so with `NoNodeAvailable`."""
        for queue in [self._queues.get(model_id)] if model_id is not None else list(self._queues.values()):
            if queue is not None:
                queue.remove_node(node_id)
                self.tidy(queue)

    def snapshot(self) -> tuple[ModelAdmission, ...]:
        """Depth of every queue, slots and busy slots of every (node, model)."""
        return tuple(
            ModelAdmission(
                queue.model_id,
                queue.waiting,
                tuple(SlotCount(node.node_id, node.slots, node.busy) for node in queue.nodes.values()),
            )
            for queue in self._queues.values()
        )

    def close(self) -> None:
        """Refuse everybody who waits, and who comes later; idempotent."""
        self._closed = True
        for queue in tuple(self._queues.values()):
            queue.fail_all(stopping)

    # --- for Claim ---

    def queue_for(self, model_id: str, exclude: frozenset[str]) -> ModelQueue:
        if self._closed:
            raise stopping()
        queue = self._queues.get(model_id)
        if queue is None or not queue.hope(exclude):
            raise no_node()
        return queue

    def enter(self, queue: ModelQueue, waiter: Waiter) -> None:
        is_full = queue.waiting >= self._max_queue
        if is_full or self._waiting_bytes() + waiter.body_bytes > MAX_WAITING_BYTES:
            what = f"Too many requests wait for model '{queue.model_id}' ({queue.waiting})"
            error = QueueFull(what if is_full else "The requests that wait are too large together")
            error.retry_after_s = queue.retry_after_s()
            raise error
        queue.enter(waiter)

    def _waiting_bytes(self) -> int:
        return sum(queue.waiting_bytes for queue in self._queues.values())

    def tidy(self, queue: ModelQueue) -> None:
        if queue.empty and self._queues.get(queue.model_id) is queue:
            del self._queues[queue.model_id]


def stopping() -> NoNodeAvailable:
    return NoNodeAvailable("llb is stopping")
