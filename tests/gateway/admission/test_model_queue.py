"""Queue of one model: turns of owners and keys, grants, loads that are worth it, the drain rate."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from llb.errors import NoNodeAvailable, QueueFull
from llb.gateway.admission.model_queue import (
    RETRY_AFTER_MAX_S,
    RETRY_AFTER_MIN_S,
    ModelQueue,
    NodeSelector,
    NodeSlots,
    QueuedRequest,
    no_node_error,
)
from llb.policy.routing import RequestEstimate, RoutingCandidate, SharedSlots

NOBODY: frozenset[str] = frozenset()


class Queue(ModelQueue):
    """Queue with a clock that the test sets; notes which loads it wants."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.wanted: list[tuple[str, str]] = []
        super().__init__("m", lambda: self.now_s, lambda *load: self.wanted.append(load))

    def add(
        self,
        owner_id: str = "owner",
        key_id: str = "",
        *,
        request: RequestEstimate | None = None,
        select: NodeSelector | None = None,
        exclude: frozenset[str] = NOBODY,
        body_bytes: int = 0,
    ) -> QueuedRequest:
        queued = QueuedRequest(
            owner_id,
            key_id or owner_id,
            request or RequestEstimate(),
            select or first_free,
            exclude,
            self.now_s,
            body_bytes,
        )
        self.enqueue(queued)
        return queued

    def take(self, exclude: frozenset[str] = NOBODY) -> NodeSlots:
        node = self.acquire_slot(RequestEstimate(), first_free, exclude)
        assert node is not None
        return node

    def serve(self, count: int, waiting: dict[str, QueuedRequest]) -> list[str]:
        """The names of those that get the slot of the only node, one after the other."""
        [node] = self.present_nodes
        served = []
        for _ in range(count):
            self.release_slot(node, RequestEstimate())
            [name] = (name for name, queued in waiting.items() if queued.slot_future.done())
            del waiting[name]
            served.append(name)
        return served


def first_free(candidates: Sequence[RoutingCandidate], _request: RequestEstimate) -> RoutingCandidate | None:
    return next((node for node in candidates if node.free_slots > 0), None)


def only_loaded(candidates: Sequence[RoutingCandidate], _request: RequestEstimate) -> RoutingCandidate | None:
    return next((node for node in candidates if node.free_slots > 0 and node.loaded), None)


@pytest.fixture
async def queue() -> Queue:
    """A queue with one node of one slot."""
    made = Queue()
    made.set_node("a", 1, loaded=True)
    return made


async def test_owners_take_turns_and_their_keys_do(queue: Queue) -> None:
    queue.take()
    waiting = {
        name: queue.add(name[0], name[:2]) for name in ("x1-first", "x1-second", "x2-first", "y1-first")
    }
    assert queue.serve(4, waiting) == ["x1-first", "y1-first", "x2-first", "x1-second"]
    assert queue.queued == 0


async def test_how_many_are_served_before_a_new_one(queue: Queue) -> None:
    assert queue.count_requests_ahead("new", "new") == 0
    queue.take()
    for key_id in ("x1", "x1", "x1", "x2"):
        queue.add("x", key_id)
    # A turn of the other owner, then this one's.
    assert queue.count_requests_ahead("new", "new") == 1
    # Its own key has one and its owner's other key has three: two of those, and one.
    assert queue.count_requests_ahead("x", "x2") == 4
    # Never more than there are.
    queue.add("y", "y1")
    assert queue.count_requests_ahead("x", "x1") == queue.queued == 5


async def test_a_request_that_was_cancelled_is_passed_over(queue: Queue) -> None:
    node = queue.take()
    first, second = queue.add("x"), queue.add("y")
    first.slot_future.cancel()
    queue.release_slot(node, RequestEstimate())
    assert second.slot_future.result() is node
    assert queue.queued == 1
    queue.dequeue(first)
    assert queue.queued == 0


async def test_bodies_count_while_they_wait(queue: Queue) -> None:
    queue.take()
    first, second = queue.add(body_bytes=3), queue.add(body_bytes=4)
    assert queue.queued_bytes == 7
    queue.fail_request(first, QueueFull("x"))
    # The second time it has left already.
    queue.fail_request(first, QueueFull("y"))
    assert (queue.queued, queue.queued_bytes) == (1, 4)
    with pytest.raises(QueueFull, match="x"):
        first.slot_future.result()
    queue.dequeue(second)
    assert (queue.queued, queue.queued_bytes) == (0, 0)


async def test_slots_shared_with_other_models_are_taken_together() -> None:
    shared = SharedSlots(slots=1)
    queues = (Queue(), Queue())
    for queue in queues:
        queue.set_node("cloud", 4, loaded=True, shared=shared)
    node = queues[0].take()
    assert shared.busy == 1
    assert queues[1].acquire_slot(RequestEstimate(), first_free, NOBODY) is None
    queues[0].release_slot(node, RequestEstimate())
    assert shared.busy == 0
    queues[1].take()


async def test_tokens_of_requests_are_given_back(queue: Queue) -> None:
    request = RequestEstimate(prompt_tokens=30, completion_tokens=20)
    node = queue.acquire_slot(request, first_free, NOBODY)
    assert node is not None
    assert (node.busy, node.prompt_tokens, node.completion_tokens) == (1, 30, 20)
    queue.release_slot(node, request)
    assert (node.busy, node.prompt_tokens, node.completion_tokens) == (0, 0, 0)


@pytest.mark.parametrize("chosen", [RoutingCandidate("b", 1, 0), RoutingCandidate("a", 1, 0)])
async def test_a_selector_may_choose_candidates_only(queue: Queue, chosen: RoutingCandidate) -> None:
    with pytest.raises(ValueError, match="not a candidate"):
        queue.acquire_slot(RequestEstimate(), lambda *_: chosen, NOBODY)
    queue.take()
    with pytest.raises(ValueError, match="not a candidate"):
        queue.acquire_slot(RequestEstimate(), lambda candidates, _: candidates[0], NOBODY)


async def test_a_node_that_is_removed_keeps_its_reservations(queue: Queue) -> None:
    node = queue.take()
    queue.set_node("b", 0, loaded=False)
    either, only_a = queue.add(), queue.add(exclude=frozenset({"b"}))
    queue.remove_node("a")
    with pytest.raises(NoNodeAvailable, match="offline, draining or has failed"):
        only_a.slot_future.result()
    assert not either.slot_future.done()
    assert queue.nodes["a"] is node
    queue.release_slot(node, RequestEstimate())
    assert [*queue.nodes] == ["b"]
    # Back again, with the same object while it is busy.
    queue.set_node("a", 2, loaded=True)
    assert either.slot_future.result().node_id == "a"


async def test_a_queue_is_empty_without_nodes_and_requests(queue: Queue) -> None:
    was_empty = queue.is_empty
    queue.remove_node("unknown")
    queue.take()
    waiting = queue.add()
    queue.fail_requests(no_node_error)
    assert isinstance(waiting.slot_future.exception(), NoNodeAvailable)
    queue.release_slot(queue.nodes["a"], RequestEstimate())
    queue.remove_node("a")
    assert (was_empty, queue.is_empty) == (False, True)


async def test_the_longest_context_is_known_if_all_are() -> None:
    queue = Queue()
    lengths = []
    for node_id, context_length in (("a", 4096), ("b", None), ("b", 8192)):
        queue.set_node(node_id, 1, loaded=True, context_length=context_length)
        lengths.append(queue.max_context_length)
    queue.remove_node("b")
    assert [*lengths, queue.max_context_length] == [4096, None, 8192, 4096]


async def test_without_a_slot_the_least_busy_loaded_node_is_chosen() -> None:
    queue = Queue()
    assert queue.select_without_slot(NOBODY) is None
    queue.set_node("cold", 1, loaded=False, load_s=1.0)
    queue.set_node("colder", 1, loaded=False, load_s=2.0)
    queue.set_node("none", 0, loaded=True)
    selected = queue.select_without_slot(NOBODY)
    assert selected is not None
    assert selected.node_id == "cold"
    queue.set_node("a", 2, loaded=True)
    queue.set_node("b", 2, loaded=True)
    queue.take(frozenset({"cold", "colder", "b"}))
    selected = queue.select_without_slot(NOBODY)
    assert selected is not None
    assert selected.node_id == "b"
    assert queue.select_without_slot(frozenset(queue.nodes)) is None


async def test_a_free_slot_that_is_not_loaded_is_left_to_the_next_recheck(queue: Queue) -> None:
    """A request that waits for a loaded slot checks again when a load would have ended."""
    queue.set_node("cold", 1, loaded=False, load_s=50.0)
    node = queue.take()
    queue.now_s = 2.0
    waiting = queue.add(select=only_loaded)
    timer = waiting.recheck_timer
    assert timer is not None
    # Its turn has come before: the timer ends with it.
    queue.release_slot(node, RequestEstimate())
    assert waiting.slot_future.result() is node
    assert timer.cancelled()


async def test_no_recheck_without_a_slot_that_could_be_loaded(queue: Queue) -> None:
    queue.set_node("cold", 1, loaded=False, load_s=50.0)
    queue.take()
    assert queue.add(select=only_loaded, exclude=frozenset({"cold"})).recheck_timer is None


async def test_a_load_is_wanted_once_requests_have_waited_as_long_as_it_takes(queue: Queue) -> None:
    queue.set_node("cold", 1, loaded=False, load_s=3.0)
    queue.set_node("colder", 1, loaded=False, load_s=9.0)
    queue.take()
    first = queue.add(select=only_loaded)
    queue.now_s = 2.9
    queue.add(select=only_loaded)
    assert queue.wanted == []
    queue.now_s = 3.0
    queue.add(select=only_loaded)
    assert queue.wanted == [("cold", "m")]
    # A queue that was empty meanwhile starts from the beginning.
    for waiting in (first, *(queue.add(select=only_loaded) for _ in range(2))):
        queue.dequeue(waiting)
    queue.fail_requests(no_node_error)
    queue.wanted.clear()
    for queue.now_s in (10.0, 12.0):
        queue.add(select=only_loaded)
    assert queue.wanted == []


async def test_retry_after_is_the_length_of_the_queue_times_the_gap(queue: Queue) -> None:
    # Nothing is known yet.
    assert queue.retry_after_s() == (QueueFull.retry_after_s or RETRY_AFTER_MIN_S)
    node = queue.take()
    for _ in range(4):
        queue.add()
    queue.now_s = 2.0
    queue.release_slot(node, RequestEstimate())
    # Three wait, and the one that asks.
    assert queue.retry_after_s() == 8
    # A gap that lasts longer than the mean counts as it is.
    queue.now_s = 7.0
    assert queue.retry_after_s() == 20
    queue.now_s = 1000.0
    assert queue.retry_after_s() == RETRY_AFTER_MAX_S


async def test_a_time_without_requests_is_no_slow_one(queue: Queue) -> None:
    node = queue.take()
    queue.add()
    queue.now_s = 1.0
    queue.release_slot(node, RequestEstimate())
    queue.now_s = 100.0
    # Nothing has waited through these 99 s.
    queue.release_slot(node, RequestEstimate())
    queue.take()
    queue.add()
    assert queue.retry_after_s() == 2
