"""Property test: no order of reserve, release, cancel, timeout and resize loses or doubles a slot."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from hypothesis import given, settings
from hypothesis import strategies as st

from llb.errors import NoNodeAvailable, QueueFull, QueueTimeout
from llb.gateway.admission.controller import AdmissionController
from llb.gateway.admission.model_queue import NodeSelector
from llb.policy.routing import RequestEstimate, RoutingCandidate, select_node

NODES = ("a", "b", "c")
MAX_QUEUE = 6
QUEUE_TIMEOUT_S = 10.0
LOAD_S = 3.0


class SteppedLoop(asyncio.SelectorEventLoop):
    """Event loop whose clock and iterations the test controls."""

    now_s = 0.0

    def time(self) -> float:
        return self.now_s

    def iterate(self, count: int = 1) -> None:
        for _ in range(count):
            self.call_soon(self.stop)
            self.run_forever()


@dataclass(frozen=True)
class Reserve:
    key_id: str
    exclude: frozenset[str]
    tokens: int = 0


@dataclass(frozen=True)
class Release:
    index: int


@dataclass(frozen=True)
class Cancel:
    index: int


@dataclass(frozen=True)
class Resize:
    node_id: str
    # None: the node leaves
    slots: int | None
    loaded: bool = True


@dataclass(frozen=True)
class Advance:
    seconds: float


Step = Reserve | Release | Cancel | Resize | Advance

steps = st.one_of(
    st.builds(Reserve, st.sampled_from("xyz"), st.frozensets(st.sampled_from(NODES), max_size=1)),
    st.builds(Reserve, st.sampled_from("xyz"), st.just(frozenset[str]()), st.sampled_from([0, 10, 2000])),
    st.builds(Release, st.integers(0, 20)),
    st.builds(Cancel, st.integers(0, 20)),
    st.builds(Resize, st.sampled_from(NODES), st.none() | st.integers(0, 3)),
    st.builds(Resize, st.sampled_from(NODES), st.integers(1, 3), st.just(False)),
    st.builds(Advance, st.sampled_from([0.5, 4.0, 11.0])),
)


class Requests:
    """Bookkeeping of held slots that is independent of the controller's."""

    def __init__(self, loop: SteppedLoop) -> None:
        self.loop = loop
        self.admission = AdmissionController(MAX_QUEUE, QUEUE_TIMEOUT_S, clock=loop.time)
        self.capacity: dict[str, int] = {}
        self.unloaded: set[str] = set()
        self.held: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.granted: list[tuple[Reserve, int]] = []
        self.waiting: dict[int, Reserve] = {}
        self.started_at: dict[int, float] = {}
        self.done: list[asyncio.Event] = []
        self.tasks: list[asyncio.Task[None]] = []

    def select_node(
        self, reserve: Reserve, number: int, candidates: Sequence[RoutingCandidate], request: RequestEstimate
    ) -> RoutingCandidate | None:
        for candidate in candidates:
            assert candidate.slots == self.capacity[candidate.node_id]
            assert self.held[candidate.node_id] <= candidate.busy
        selected = select_node(candidates, request)
        if selected is not None and selected.loaded:
            # Taking a node that must be loaded first overtakes no request: those before did not want it. The
            # order is that of the grants: a queued request that was granted a slot runs one iteration later.
            self.granted.append((reserve, number))
        return selected

    async def request(self, reserve: Reserve, number: int, done: asyncio.Event) -> None:
        self.waiting[number] = reserve
        self.started_at[number] = self.loop.time()
        try:
            slot = await self.admission.reserve_slot(
                "m",
                key_id=reserve.key_id,
                request=RequestEstimate(reserve.tokens, reserve.tokens),
                select_node=partial(self.select_node, reserve, number),
                exclude=reserve.exclude,
                body_bytes=reserve.tokens,
            )
            del self.waiting[number]
            assert slot.node_id not in reserve.exclude
            self.held[slot.node_id] += 1
            self.tokens[slot.node_id] += reserve.tokens
            try:
                await done.wait()
            finally:
                self.held[slot.node_id] -= 1
                self.tokens[slot.node_id] -= reserve.tokens
                slot.release()
        except QueueTimeout:
            assert self.loop.time() - self.started_at[number] >= QUEUE_TIMEOUT_S
        finally:
            self.waiting.pop(number, None)

    def apply(self, step: Step) -> None:
        match step:
            case Reserve():
                done = asyncio.Event()
                number = len(self.tasks)
                self.done.append(done)
                self.tasks.append(self.loop.create_task(self.request(step, number, done)))
            case Release(index):
                running = [done for done, task in zip(self.done, self.tasks, strict=True) if not task.done()]
                if running:
                    running[index % len(running)].set()
            case Cancel(index):
                # A slot could be lost with a request that waits, or was granted one in this very iteration.
                unheld = [self.tasks[number] for number in self.waiting] or self.tasks
                if unheld:
                    unheld[index % len(unheld)].cancel()
            case Resize(node_id, None):
                self.capacity.pop(node_id, None)
                self.admission.remove_node(node_id, "m")
            case Resize(node_id, slots, loaded) if slots is not None:
                self.capacity[node_id] = slots
                (self.unloaded.discard if loaded else self.unloaded.add)(node_id)
                self.admission.set_capacity(node_id, "m", slots, loaded=loaded, load_s=LOAD_S)
            case Advance(seconds):
                self.loop.now_s += seconds

    def check_settled(self) -> None:
        """At rest both books agree, and no request waits although it could have a slot.

        It may wait for a slot that must be loaded first, but not longer than the load takes.
        """
        self.loop.iterate(8)
        queue = next(iter(self.admission.snapshot()), None)
        busy = {node.node_id: node.busy for node in queue.nodes} if queue is not None else {}
        assert +Counter(busy) == +self.held
        self.check_tokens()
        assert self.admission._queued_bytes() == sum(reserve.tokens for reserve in self.waiting.values())
        assert (queue.queued if queue is not None else 0) == len(self.waiting) <= MAX_QUEUE
        for number, reserve in self.waiting.items():
            queued_at = self.started_at[number]
            for node_id, slots in self.capacity.items():
                if node_id not in reserve.exclude and self.held[node_id] < slots:
                    assert node_id in self.unloaded
                    assert self.loop.time() - queued_at < LOAD_S
            # Otherwise it would have failed.
            assert self.capacity.keys() - reserve.exclude

    def check_tokens(self) -> None:
        """Every node counts the tokens of its requests, as the selector of one more request sees them."""
        seen: list[tuple[str, int, int]] = []

        def observe(candidates: Sequence[RoutingCandidate], _request: RequestEstimate) -> None:
            seen.extend((node.node_id, node.prompt_tokens, node.completion_tokens) for node in candidates)

        task = self.loop.create_task(self.reserve_nothing(observe))
        self.loop.iterate(2)
        task.cancel()
        self.loop.iterate(2)
        for node_id, prompt_tokens, completion_tokens in seen:
            assert prompt_tokens == completion_tokens == self.tokens[node_id]

    async def reserve_nothing(self, select_node: NodeSelector) -> None:
        with suppress(QueueFull, NoNodeAvailable):
            await self.admission.reserve_slot("m", key_id="observer", select_node=select_node)
            raise AssertionError("the observer selects no node")

    def check_order(self) -> None:
        """First come, first served among the requests of one key that can use the same nodes."""
        last: dict[Reserve, int] = {}
        for reserve, number in self.granted:
            assert last.get(reserve, -1) < number
            last[reserve] = number

    def finish(self) -> None:
        for done in self.done:
            done.set()
        self.loop.iterate(8)
        for task in self.tasks:
            task.cancel()
        self.loop.iterate(8)
        for task in self.tasks:
            assert task.done()
            with suppress(QueueFull, NoNodeAvailable, asyncio.CancelledError):
                task.result()
        assert not +self.held
        for queue in self.admission.snapshot():
            assert queue.queued == 0
            assert all(node.busy == 0 for node in queue.nodes)
        for node_id in NODES:
            self.admission.remove_node(node_id, "m")
        assert self.admission.snapshot() == ()


@settings(max_examples=3 * settings().max_examples, deadline=None)
@given(
    slots=st.integers(0, 3),
    script=st.lists(st.tuples(steps, st.sampled_from([0, 0, 1, 2, 8])), min_size=25, max_size=60),
)
def test_no_slot_is_lost_or_doubled(slots: int, script: list[tuple[Step, int]]) -> None:
    loop = SteppedLoop()
    asyncio.set_event_loop(None)
    try:
        requests = Requests(loop)
        requests.apply(Resize("a", slots))
        for step, iterations in script:
            requests.apply(step)
            if iterations < 8:
                loop.iterate(iterations)
            else:
                requests.check_settled()
        requests.check_settled()
        requests.check_order()
        requests.finish()
    finally:
        loop.close()
