"""Whatever is claimed, given back, cancelled, timed out or resized in whatever order: no slot is lost or doubled."""

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
    """An event loop whose clock and turns belong to the test."""

    now_s = 0.0

    def time(self) -> float:
        return self.now_s

    def turn(self, count: int = 1) -> None:
        for _ in range(count):
            self.call_soon(self.stop)
            self.run_forever()


@dataclass(frozen=True)
class Claim:
    key_id: str
    exclude: frozenset[str]
    tokens: int = 0


@dataclass(frozen=True)
class GiveBack:
    index: int


@dataclass(frozen=True)
class Cancel:
    index: int


@dataclass(frozen=True)
class Resize:
    node_id: str
    slots: int | None  # None: the node leaves
    loaded: bool = True


@dataclass(frozen=True)
class Pass:
    seconds: float


Step = Claim | GiveBack | Cancel | Resize | Pass

steps = st.one_of(
    st.builds(Claim, st.sampled_from("xyz"), st.frozensets(st.sampled_from(NODES), max_size=1)),
    st.builds(Claim, st.sampled_from("xyz"), st.just(frozenset[str]()), st.sampled_from([0, 10, 2000])),
    st.builds(GiveBack, st.integers(0, 20)),
    st.builds(Cancel, st.integers(0, 20)),
    st.builds(Resize, st.sampled_from(NODES), st.none() | st.integers(0, 3)),
    st.builds(Resize, st.sampled_from(NODES), st.integers(1, 3), st.just(False)),
    st.builds(Pass, st.sampled_from([0.5, 4.0, 11.0])),
)


class Requests:
    """Keeps its own books of who holds what, independent of admission's."""

    def __init__(self, loop: SteppedLoop) -> None:
        self.loop = loop
        self.admission = AdmissionController(MAX_QUEUE, QUEUE_TIMEOUT_S, clock=loop.time)
        self.capacity: dict[str, int] = {}
        self.unloaded: set[str] = set()
        self.held: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.granted: list[tuple[Claim, int]] = []
        self.waiting: dict[int, Claim] = {}
        self.began: dict[int, float] = {}
        self.done: list[asyncio.Event] = []
        self.tasks: list[asyncio.Task[None]] = []

    def choose(
        self, claim: Claim, number: int, candidates: Sequence[RoutingCandidate], request: RequestEstimate
    ) -> RoutingCandidate | None:
        for candidate in candidates:
            assert candidate.slots == self.capacity[candidate.node_id]
            assert self.held[candidate.node_id] <= candidate.busy
        chosen = select_node(candidates, request)
        if chosen is not None and chosen.loaded:
            # Who takes a node that must first be loaded overtakes nobody: those before did not want it. The order is that of the grants: who was granted one after waiting runs a turn of the loop later.
            self.granted.append((claim, number))
        return chosen

    async def request(self, claim: Claim, number: int, done: asyncio.Event) -> None:
        self.waiting[number] = claim
        self.began[number] = self.loop.time()
        try:
            async with self.admission.reserve_slot(
                "m",
                key_id=claim.key_id,
                request=RequestEstimate(claim.tokens, claim.tokens),
                select_node=partial(self.choose, claim, number),
                exclude=claim.exclude,
                body_bytes=claim.tokens,
            ) as taken:
                del self.waiting[number]
                assert taken.node_id not in claim.exclude
                node_id = taken.node_id
                self.held[node_id] += 1
                self.tokens[node_id] += claim.tokens
                try:
                    await done.wait()
                finally:
                    self.held[node_id] -= 1
                    self.tokens[node_id] -= claim.tokens
        except QueueTimeout:
            assert self.loop.time() - self.began[number] >= QUEUE_TIMEOUT_S
        finally:
            self.waiting.pop(number, None)

    def apply(self, step: Step) -> None:
        match step:
            case Claim():
                done = asyncio.Event()
                number = len(self.tasks)
                self.done.append(done)
                self.tasks.append(self.loop.create_task(self.request(step, number, done)))
            case GiveBack(index):
                running = [done for done, task in zip(self.done, self.tasks, strict=True) if not task.done()]
                if running:
                    running[index % len(running)].set()
            case Cancel(index):
                # Those who wait or were granted a slot in this very turn are where a slot could be lost.
                unheld = [self.tasks[number] for number in self.waiting] or self.tasks
                if unheld:
                    unheld[index % len(unheld)].cancel()
            case Resize(node_id, None):
                self.capacity.pop(node_id, None)
                self.admission.remove_node(node_id)
            case Resize(node_id, slots, loaded) if slots is not None:
                self.capacity[node_id] = slots
                (self.unloaded.discard if loaded else self.unloaded.add)(node_id)
                self.admission.set_capacity(node_id, "m", slots, loaded=loaded, load_s=LOAD_S)
            case Pass(seconds):
                self.loop.now_s += seconds

    def check_settled(self) -> None:
        """When nothing is under way, both books agree, and nobody waits beside a slot that it could have, nor longer than
        a load takes beside one that it would have to load."""
        self.loop.turn(8)
        queue = next(iter(self.admission.snapshot()), None)
        busy = {node.node_id: node.busy for node in queue.nodes} if queue is not None else {}
        assert +Counter(busy) == +self.held
        self.check_tokens()
        assert self.admission._queued_bytes() == sum(claim.tokens for claim in self.waiting.values())
        assert (queue.queued if queue is not None else 0) == len(self.waiting) <= MAX_QUEUE
        for number, claim in self.waiting.items():
            waits_since = self.began[number]
            for node_id, slots in self.capacity.items():
                if node_id not in claim.exclude and self.held[node_id] < slots:
                    assert node_id in self.unloaded
                    assert self.loop.time() - waits_since < LOAD_S
            assert self.capacity.keys() - claim.exclude  # else it would have been told

    def check_tokens(self) -> None:
        """Each node has the tokens of the requests that it has, seen through the eyes of one more request."""
        seen: list[tuple[str, int, int]] = []

        def look(candidates: Sequence[RoutingCandidate], _request: RequestEstimate) -> None:
            seen.extend((node.node_id, node.prompt_tokens, node.completion_tokens) for node in candidates)

        task = self.loop.create_task(self.look(look))
        self.loop.turn(2)
        task.cancel()
        self.loop.turn(2)
        for node_id, prompt_tokens, completion_tokens in seen:
            assert prompt_tokens == completion_tokens == self.tokens[node_id]

    async def look(self, choose: NodeSelector) -> None:
        with suppress(QueueFull, NoNodeAvailable):
            async with self.admission.reserve_slot("m", key_id="look", select_node=choose):
                raise AssertionError("a look takes no slot")

    def check_order(self) -> None:
        """First come, first served among the requests of one key that can use the same nodes."""
        last: dict[Claim, int] = {}
        for claim, number in self.granted:
            assert last.get(claim, -1) < number
            last[claim] = number

    def finish(self) -> None:
        for done in self.done:
            done.set()
        self.loop.turn(8)
        for task in self.tasks:
            task.cancel()
        self.loop.turn(8)
        for task in self.tasks:
            assert task.done()
            with suppress(QueueFull, NoNodeAvailable, asyncio.CancelledError):
                task.result()
        assert not +self.held
        for queue in self.admission.snapshot():
            assert queue.queued == 0
            assert all(node.busy == 0 for node in queue.nodes)
        for node_id in NODES:
            self.admission.remove_node(node_id)
        assert self.admission.snapshot() == ()


@settings(max_examples=300, deadline=None)
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
        for step, turns in script:
            requests.apply(step)
            if turns < 8:
                loop.turn(turns)
            else:
                requests.check_settled()
        requests.check_settled()
        requests.check_order()
        requests.finish()
    finally:
        loop.close()
