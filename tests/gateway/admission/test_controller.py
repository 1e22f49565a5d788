"""Admission control: slots, queues, fairness between keys, timeouts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from llb.errors import NoNodeAvailable, QueueFull, QueueTimeout
from llb.gateway.admission.controller import (
    MAX_QUEUED_BYTES,
    AdmissionController,
    ModelQueueSnapshot,
    NodeSlotUsage,
)
from llb.gateway.admission.model_queue import NodeSelector
from llb.policy import routing
from llb.policy.routing import RequestEstimate, RoutingCandidate, Throughput


class Clock:
    """Clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Holder:
    """Request that reserves a slot and holds it until `finish()`."""

    def __init__(
        self,
        admission: AdmissionController,
        key_id: str = "k",
        *,
        exclude: frozenset[str] = frozenset(),
        choose: NodeSelector = routing.select_node,
        request: RequestEstimate | None = None,
        timeout_s: float | None = None,
        order: list[Holder] | None = None,
        body_bytes: int = 0,
        owner_id: str | None = None,
    ) -> None:
        self.node_id: str | None = None
        self.queued_ms: int | None = None
        self.held = asyncio.Event()
        self._finished = asyncio.Event()
        self._order = order
        self._slot = admission.reserve_slot(
            "m",
            key_id=key_id,
            owner_id=owner_id,
            request=request,
            select_node=choose,
            exclude=exclude,
            timeout_s=timeout_s,
            body_bytes=body_bytes,
        )
        self.task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        slot = await self._slot
        self.node_id, self.queued_ms = slot.node_id, slot.queued_ms
        try:
            if self._order is not None:
                self._order.append(self)
            self.held.set()
            await self._finished.wait()
        finally:
            slot.release()

    async def finish(self) -> None:
        self._finished.set()
        await self.task


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def state(admission: AdmissionController) -> ModelQueueSnapshot:
    (only,) = admission.snapshot()
    return only


async def test_a_free_slot_is_reserved_at_once() -> None:
    admission = AdmissionController(8, 60)
    admission.set_capacity("a", "m", 2)
    slot = await admission.reserve_slot("m", key_id="k")
    assert (slot.node_id, slot.queued_ms) == ("a", 0)
    assert state(admission) == ModelQueueSnapshot("m", 0, (NodeSlotUsage("a", 2, 1),))
    slot.release()
    slot.release()
    assert state(admission).nodes[0].busy == 0


async def test_the_loaded_and_least_busy_node_is_preferred() -> None:
    admission = AdmissionController(8, 60)
    admission.set_capacity("a", "m", 1, loaded=False)
    admission.set_capacity("b", "m", 2)
    admission.set_capacity("c", "m", 4)
    holders = [Holder(admission) for _ in range(7)]
    await settle()
    assert [holder.node_id for holder in holders] == ["b", "c", "c", "b", "c", "c", "a"]
    for holder in holders:
        await holder.finish()


async def test_a_queued_request_gets_the_slot_that_is_released() -> None:
    clock = Clock()
    admission = AdmissionController(8, 60, clock=clock)
    admission.set_capacity("a", "m", 1)
    first, second = Holder(admission), Holder(admission)
    await settle()
    assert not second.held.is_set()
    assert state(admission).queued == 1
    clock.now = 1.5
    await first.finish()
    await second.held.wait()
    assert (second.node_id, second.queued_ms) == ("a", 1500)
    await second.finish()
    assert state(admission) == ModelQueueSnapshot("m", 0, (NodeSlotUsage("a", 1, 0),))


async def test_more_keys_bring_an_owner_no_more_turns() -> None:
    admission = AdmissionController(32, 60)
    admission.set_capacity("a", "m", 1)
    order: list[Holder] = []
    first = Holder(admission, "busy", order=order)
    await settle()
    many = [Holder(admission, f"key {number % 4}", owner_id="ann", order=order) for number in range(8)]
    await settle()
    few = [Holder(admission, "only", owner_id="bob", order=order) for _ in range(3)]
    await settle()
    await first.held.wait()
    for served_count in range(1, 12):
        await order[-1].finish()
        await settle()
        assert len(order) == served_count + 1
    await order[-1].finish()
    served = ["bob" if holder in few else "ann" for holder in order[1:]]
    assert served == ["ann", "bob"] * 3 + ["ann"] * 5
    # Within the owner the keys take turns, too.
    keys = [many.index(holder) % 4 for holder in order if holder in many]
    assert keys == [0, 1, 2, 3] * 2


async def test_a_key_of_a_busy_owner_waits_for_its_turn_only() -> None:
    admission = AdmissionController(32, 60)
    admission.set_capacity("a", "m", 1)
    order: list[Holder] = []
    first = Holder(admission, "agent", owner_id="ann", order=order)
    await settle()
    for _ in range(6):
        Holder(admission, "agent", owner_id="ann", order=order)
    chat = Holder(admission, "chat", owner_id="ann", order=order)
    await settle()
    await first.finish()
    await settle()
    await order[1].finish()
    await settle()
    assert order[2] is chat
    admission.close()


async def test_keys_take_turns() -> None:
    admission = AdmissionController(99, 60)
    admission.set_capacity("a", "m", 1)
    order: list[Holder] = []
    running = Holder(admission)
    await settle()
    greedy = [Holder(admission, "greedy", order=order) for _ in range(4)]
    await settle()
    modest = [Holder(admission, "modest", order=order) for _ in range(2)]
    await settle()
    for holder in (running, greedy[0], modest[0], greedy[1], modest[1], greedy[2], greedy[3]):
        await holder.finish()
    assert order == [greedy[0], modest[0], greedy[1], modest[1], greedy[2], greedy[3]]


async def test_the_queue_is_bounded() -> None:
    admission = AdmissionController(2, 60)
    admission.set_capacity("a", "m", 1)
    holders = [Holder(admission) for _ in range(3)]
    await settle()
    with pytest.raises(QueueFull) as caught:
        await Holder(admission).task
    assert caught.value.retry_after_s == 2
    assert state(admission).queued == 2
    for holder in holders:
        await holder.finish()


async def test_the_bodies_of_queued_requests_are_bounded() -> None:
    admission = AdmissionController(100, 60)
    admission.set_capacity("a", "m", 1)
    third = MAX_QUEUED_BYTES // 3
    # One of them has the slot.
    holders = [Holder(admission, body_bytes=third) for _ in range(4)]
    await settle()
    with pytest.raises(QueueFull, match="too large together"):
        await Holder(admission, body_bytes=third).task
    small = Holder(admission)
    await holders[0].finish()
    late = Holder(admission, body_bytes=third)
    await settle()
    assert state(admission).queued == 4
    for holder in (*holders[1:], small, late):
        await holder.finish()


async def test_a_queued_request_times_out() -> None:
    admission = AdmissionController(8, 0.02)
    admission.set_capacity("a", "m", 1)
    holder = Holder(admission)
    await holder.held.wait()
    with pytest.raises(QueueTimeout) as caught:
        await Holder(admission).task
    assert caught.value.retry_after_s is not None
    assert state(admission).queued == 0
    patient = Holder(admission, timeout_s=60)
    await settle()
    await holder.finish()
    await patient.held.wait()
    await patient.finish()


async def test_retry_after_follows_the_drain_rate() -> None:
    clock = Clock()
    admission = AdmissionController(4, 60, clock=clock)
    admission.set_capacity("a", "m", 1)

    async def refused() -> int:
        with pytest.raises(QueueFull) as caught:
            await Holder(admission).task
        assert caught.value.retry_after_s is not None
        return caught.value.retry_after_s

    holders = [Holder(admission) for _ in range(5)]
    await settle()
    # One completion every two seconds, four requests in the queue.
    for number in range(20):
        clock.now += 2
        holders.append(Holder(admission))
        await holders[number].finish()
        await settle()
        holders[-1].task.cancel()
        await settle()
        holders[-1] = Holder(admission)
        await settle()
    assert await refused() == 10
    # No completion for an hour.
    clock.now += 3600
    assert await refused() == 60
    for holder in holders:
        holder.task.cancel()
    await settle()


async def test_a_cancelled_request_leaves_the_queue() -> None:
    admission = AdmissionController(8, 60)
    admission.set_capacity("a", "m", 1)
    first, second, third = Holder(admission), Holder(admission), Holder(admission)
    await settle()
    second.task.cancel()
    await first.finish()
    await third.held.wait()
    assert second.task.cancelled()
    await third.finish()
    assert state(admission) == ModelQueueSnapshot("m", 0, (NodeSlotUsage("a", 1, 0),))


async def test_a_slot_granted_to_a_cancelled_request_is_passed_on() -> None:
    admission = AdmissionController(8, 60)
    admission.set_capacity("a", "m", 1)
    first, second, third = Holder(admission), Holder(admission), Holder(admission)
    await settle()
    # Grants a slot to the second request, whose task has not run yet.
    admission.set_capacity("a", "m", 2)
    second.task.cancel()
    await third.held.wait()
    assert second.node_id is None
    await first.finish()
    await third.finish()
    assert state(admission) == ModelQueueSnapshot("m", 0, (NodeSlotUsage("a", 2, 0),))


async def test_an_excluded_node_does_not_block_the_requests_behind() -> None:
    admission = AdmissionController(8, 60)
    admission.set_capacity("a", "m", 1)
    admission.set_capacity("b", "m", 1)
    first, second = Holder(admission), Holder(admission)
    await settle()
    picky = Holder(admission, exclude=frozenset({"a"}))
    behind = Holder(admission)
    await settle()
    await first.finish()
    await settle()
    assert (first.node_id, picky.node_id, behind.node_id) == ("a", None, "a")
    await second.finish()
    await settle()
    assert picky.node_id == "b"
    await picky.finish()
    await behind.finish()


async def test_no_request_waits_for_a_slot_that_cannot_come() -> None:
    admission = AdmissionController(8, 60)
    with pytest.raises(NoNodeAvailable):
        await Holder(admission).task
    admission.set_capacity("a", "m", 1)
    with pytest.raises(NoNodeAvailable):
        await Holder(admission, exclude=frozenset({"a"})).task
    admission.set_capacity("b", "m", 1)
    holders = [Holder(admission), Holder(admission)]
    await settle()
    hopeless = Holder(admission, exclude=frozenset({"a"}))
    hopeful = Holder(admission)
    await settle()
    admission.remove_node("b", "m")
    with pytest.raises(NoNodeAvailable):
        await hopeless.task
    for holder in (*holders, hopeful):
        await holder.finish()
    admission.remove_node("a", "m")
    assert admission.snapshot() == ()


async def test_a_node_without_slots_for_now_is_waited_for() -> None:
    admission = AdmissionController(8, 60)
    admission.set_capacity("a", "m", 0)
    holder = Holder(admission)
    await settle()
    assert state(admission).queued == 1
    admission.set_capacity("a", "m", 1)
    await holder.held.wait()
    await holder.finish()


async def test_a_node_that_returns_still_counts_its_reservations() -> None:
    admission = AdmissionController(8, 60)
    admission.set_capacity("a", "m", 1)
    holder = Holder(admission)
    await settle()
    admission.remove_node("a", "m")
    assert state(admission).nodes == (NodeSlotUsage("a", 0, 1),)
    admission.set_capacity("a", "m", 1)
    waiter = Holder(admission)
    await settle()
    assert not waiter.held.is_set()
    await holder.finish()
    await waiter.held.wait()
    await waiter.finish()


async def test_slots_can_shrink_below_the_busy_ones() -> None:
    admission = AdmissionController(8, 60)
    admission.set_capacity("a", "m", 2)
    first, second, third = Holder(admission), Holder(admission), Holder(admission)
    await settle()
    admission.set_capacity("a", "m", 1)
    await first.finish()
    await settle()
    assert third.node_id is None
    await second.finish()
    await third.held.wait()
    await third.finish()


async def test_a_selector_may_wait_and_is_called_again() -> None:
    admission = AdmissionController(8, 60)
    admission.set_capacity("a", "m", 1)
    admission.set_capacity("b", "m", 1)

    def only_b(candidates: Sequence[RoutingCandidate], _request: RequestEstimate) -> RoutingCandidate | None:
        return next((node for node in candidates if node.node_id == "b" and node.free_slots), None)

    first, second = Holder(admission, choose=only_b), Holder(admission, choose=only_b)
    await settle()
    assert (first.node_id, second.node_id) == ("b", None)
    await first.finish()
    await second.held.wait()
    await second.finish()


def work(seconds: int) -> RequestEstimate:
    """Request that takes `seconds` on a node of unknown throughput."""
    return RequestEstimate(completion_tokens=seconds * 20)


async def test_a_slot_that_is_free_sooner_than_a_load_is_waited_for() -> None:
    admission = AdmissionController(8, 60)
    admission.set_capacity("a", "m", 1)
    admission.set_capacity("b", "m", 1, loaded=False, load_s=5.0)
    running = Holder(admission, request=work(4))
    await settle()
    sooner = Holder(admission, request=work(1))
    await settle()
    assert not sooner.held.is_set()
    # Its wait would be 8 s.
    behind = Holder(admission, request=work(1))
    await behind.held.wait()
    assert behind.node_id == "b"
    await running.finish()
    await sooner.held.wait()
    assert sooner.node_id == "a"
    await sooner.finish()
    await behind.finish()


async def test_a_request_that_waited_as_long_as_a_load_takes_stops_waiting() -> None:
    admission = AdmissionController(8, 60)
    admission.set_capacity("a", "m", 1)
    admission.set_capacity("b", "m", 1, loaded=False, load_s=0.05)
    running = Holder(admission, request=RequestEstimate(prompt_tokens=1))
    await settle()
    waiter = Holder(admission, request=work(1))
    await settle()
    assert not waiter.held.is_set()
    await waiter.held.wait()
    assert waiter.node_id == "b"
    assert waiter.queued_ms is not None
    assert waiter.queued_ms >= 50
    await waiter.finish()
    await running.finish()


async def test_when_the_loaded_node_leaves_the_other_one_is_used_at_once() -> None:
    admission = AdmissionController(8, 60)
    admission.set_capacity("a", "m", 1)
    admission.set_capacity("b", "m", 1, loaded=False, load_s=50.0)
    running, waiter = Holder(admission, request=work(4)), Holder(admission, request=work(1))
    await settle()
    assert running.held.is_set()
    assert not waiter.held.is_set()
    admission.remove_node("a", "m")
    await waiter.held.wait()
    assert waiter.node_id == "b"
    await running.finish()
    await waiter.finish()


async def test_a_node_that_has_become_loaded_is_used() -> None:
    admission = AdmissionController(8, 60)
    admission.set_capacity("a", "m", 1)
    admission.set_capacity("b", "m", 1, loaded=False, load_s=50.0)
    running, waiter = Holder(admission, request=work(4)), Holder(admission, request=work(1))
    await settle()
    assert not waiter.held.is_set()
    admission.set_capacity("b", "m", 1)
    await waiter.held.wait()
    assert waiter.node_id == "b"
    await running.finish()
    await waiter.finish()


async def test_a_conversation_stays_on_its_node_while_a_slot_is_free() -> None:
    admission = AdmissionController(8, 60)
    for node_id in "abcd":
        admission.set_capacity(node_id, "m", 2)
    homes = []
    for _ in range(3):
        holder = Holder(admission, request=RequestEstimate(10, 10, affinity_key=12345))
        await holder.held.wait()
        homes.append(holder.node_id)
        await holder.finish()
    assert len(set(homes)) == 1
    assert admission.serving_node_count("m") == 4


async def test_a_selector_that_raises_fails_its_own_request_only() -> None:
    admission = AdmissionController(8, 60)
    admission.set_capacity("a", "m", 1)

    def broken(candidates: Sequence[RoutingCandidate], _request: RequestEstimate) -> RoutingCandidate | None:
        raise ZeroDivisionError

    first = Holder(admission)
    await settle()
    second, third = Holder(admission, choose=broken), Holder(admission)
    await settle()
    await first.finish()
    await third.held.wait()
    with pytest.raises(ZeroDivisionError):
        await second.task
    await third.finish()
    assert state(admission) == ModelQueueSnapshot("m", 0, (NodeSlotUsage("a", 1, 0),))


async def test_a_selection_outside_the_candidates_is_rejected() -> None:
    admission = AdmissionController(8, 60)
    admission.set_capacity("a", "m", 1)
    with pytest.raises(ValueError, match="not a candidate"):
        await Holder(admission, choose=lambda *_: RoutingCandidate("b", 1, 0)).task
    assert state(admission).nodes[0].busy == 0


async def test_close_fails_every_queued_request() -> None:
    admission = AdmissionController(8, 60)
    admission.set_capacity("a", "m", 1)
    holder = Holder(admission)
    await settle()
    waiters = [Holder(admission, key_id) for key_id in "abc"]
    await settle()
    admission.close()
    admission.close()
    for waiter in waiters:
        with pytest.raises(NoNodeAvailable):
            await waiter.task
    with pytest.raises(NoNodeAvailable):
        await Holder(admission).task
    await holder.finish()
    assert state(admission) == ModelQueueSnapshot("m", 0, (NodeSlotUsage("a", 1, 0),))


# --- a queue that does not empty ---------------------------------------------------------------------


def short(admission: AdmissionController) -> Holder:
    """Request of 0.2 s."""
    return Holder(admission, request=RequestEstimate(prompt_tokens=100, completion_tokens=100))


async def test_a_queue_that_never_empties_requests_a_load() -> None:
    """Each request waits for less time than the load takes."""
    clock, wanted = Clock(), list[tuple[str, str]]()
    admission = AdmissionController(
        8, 60, on_load_wanted=lambda node_id, model_id: wanted.append((node_id, model_id)), clock=clock
    )
    admission.set_capacity("warm", "m", 1, throughput=Throughput(1000.0, 1000.0))
    admission.set_capacity("cold", "m", 1, loaded=False, load_s=3.0)
    holders = [short(admission), short(admission)]
    await settle()
    while clock.now < 2.9:
        assert wanted == []
        clock.now += 0.5
        holders.append(short(admission))
        await settle()
        await holders.pop(0).finish()
        await settle()
    assert wanted == [("cold", "m")]
    assert [holder.node_id for holder in holders] == ["warm", None]
    admission.set_capacity("cold", "m", 1, load_s=3.0)
    await settle()
    assert holders[1].node_id == "cold"
    for holder in holders:
        await holder.finish()


async def test_a_queue_that_was_empty_meanwhile_requests_no_load() -> None:
    clock, wanted = Clock(), list[tuple[str, str]]()
    admission = AdmissionController(
        8, 60, on_load_wanted=lambda node_id, model_id: wanted.append((node_id, model_id)), clock=clock
    )
    admission.set_capacity("warm", "m", 1, throughput=Throughput(1000.0, 1000.0))
    admission.set_capacity("cold", "m", 1, loaded=False, load_s=3.0)
    for _ in range(5):
        first, second = short(admission), short(admission)
        await settle()
        clock.now += 2.0
        third = short(admission)
        await settle()
        for holder in (first, second, third):
            await holder.finish()
    assert wanted == []


async def test_a_request_without_slot_goes_to_a_loaded_node() -> None:
    admission = AdmissionController(0, 60)
    with pytest.raises(NoNodeAvailable):
        admission.select_node_without_slot("m")
    admission.set_capacity("slow", "m", 1, loaded=False, load_s=9.0)
    admission.set_capacity("quick", "m", 1, loaded=False, load_s=3.0)
    admission.set_capacity("unreached", "m", 0)
    assert admission.select_node_without_slot("m") == "quick"
    admission.set_capacity("a", "m", 1)
    admission.set_capacity("b", "m", 1)
    slot = await admission.reserve_slot("m", key_id="k")
    other = "b" if slot.node_id == "a" else "a"
    assert admission.select_node_without_slot("m") == other
    assert admission.select_node_without_slot("m", frozenset({other})) == slot.node_id
    slot.release()
    with pytest.raises(NoNodeAvailable):
        admission.select_node_without_slot("m", frozenset({"a", "b", "slow", "quick"}))
    admission.close()
    with pytest.raises(NoNodeAvailable, match="stopping"):
        admission.select_node_without_slot("m")
