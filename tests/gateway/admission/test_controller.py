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
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Holder:
    """A request that takes a slot and keeps it until told."""

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
    ) -> None:
        self.node_id: str | None = None
        self.queued_ms: int | None = None
        self.enough = asyncio.Event()
        self.held = asyncio.Event()
        self._claim = admission.reserve_slot(
            "m",
            key_id=key_id,
            request=request,
            select_node=choose,
            exclude=exclude,
            timeout_s=timeout_s,
            body_bytes=body_bytes,
        )
        self._order = order
        self.task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        async with self._claim as claim:
            self.node_id, self.queued_ms = claim.node_id, claim.queued_ms
            if self._order is not None:
                self._order.append(self)
            self.held.set()
            await self.enough.wait()

    async def finish(self) -> None:
        self.enough.set()
        await self.task


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def state(admission: AdmissionController) -> ModelQueueSnapshot:
    (only,) = admission.snapshot()
    return only


async def test_a_free_slot_is_had_at_once() -> None:
    admission = AdmissionController(8, 60)
    admission.set_capacity("a", "m", 2)
    async with admission.reserve_slot("m", key_id="k") as claim:
        assert (claim.node_id, claim.queued_ms) == ("a", 0)
        assert state(admission) == ModelQueueSnapshot("m", 0, (NodeSlotUsage("a", 2, 1),))
        claim.release()
        claim.release()
        assert state(admission).nodes[0].busy == 0
    assert state(admission).nodes[0].busy == 0


async def test_the_emptier_node_and_the_loaded_one() -> None:
    admission = AdmissionController(8, 60)
    admission.set_capacity("a", "m", 1, loaded=False)
    admission.set_capacity("b", "m", 2)
    admission.set_capacity("c", "m", 4)
    holders = [Holder(admission) for _ in range(7)]
    await settle()
    assert [holder.node_id for holder in holders] == ["b", "c", "c", "b", "c", "c", "a"]
    for holder in holders:
        await holder.finish()


async def test_a_waiter_gets_the_slot_that_is_given_back() -> None:
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


async def test_the_queue_has_an_end() -> None:
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


async def test_what_waits_has_bounded_bodies() -> None:
    admission = AdmissionController(100, 60)
    admission.set_capacity("a", "m", 1)
    third = MAX_QUEUED_BYTES // 3
    holders = [Holder(admission, body_bytes=third) for _ in range(4)]  # one of them has the slot
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


async def test_waiting_has_a_deadline() -> None:
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
    for number in range(20):  # one completion each two seconds, four in the queue
        clock.now += 2
        holders.append(Holder(admission))
        await holders[number].finish()
        await settle()
        holders[-1].task.cancel()
        await settle()
        holders[-1] = Holder(admission)
        await settle()
    assert await refused() == 10
    clock.now += 3600  # nothing has completed for an hour
    assert await refused() == 60
    for holder in holders:
        holder.task.cancel()
    await settle()


async def test_a_cancelled_waiter_leaves_the_line() -> None:
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


async def test_a_slot_granted_to_a_cancelled_waiter_is_passed_on() -> None:
    admission = AdmissionController(8, 60)
    admission.set_capacity("a", "m", 1)
    first, second, third = Holder(admission), Holder(admission), Holder(admission)
    await settle()
    admission.set_capacity("a", "m", 2)  # grants to the second, whose task has not run yet
    second.task.cancel()
    await third.held.wait()
    assert second.node_id is None
    await first.finish()
    await third.finish()
    assert state(admission) == ModelQueueSnapshot("m", 0, (NodeSlotUsage("a", 2, 0),))


async def test_a_tried_node_is_left_out_without_holding_up_the_others() -> None:
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


async def test_nobody_waits_for_what_cannot_come() -> None:
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
    admission.remove_node("b")
    with pytest.raises(NoNodeAvailable):
        await hopeless.task
    for holder in (*holders, hopeful):
        await holder.finish()
    admission.remove_node("a", "m")
    assert admission.snapshot() == ()


async def test_a_node_that_pauses_is_waited_for() -> None:
    admission = AdmissionController(8, 60)
    admission.set_capacity("a", "m", 0)
    holder = Holder(admission)
    await settle()
    assert state(admission).queued == 1
    admission.set_capacity("a", "m", 1)
    await holder.held.wait()
    await holder.finish()


async def test_a_node_that_returns_still_counts_the_claims_it_had() -> None:
    admission = AdmissionController(8, 60)
    admission.set_capacity("a", "m", 1)
    holder = Holder(admission)
    await settle()
    admission.remove_node("a")
    assert state(admission).nodes == (NodeSlotUsage("a", 0, 1),)
    admission.set_capacity("a", "m", 1)
    waiter = Holder(admission)
    await settle()
    assert not waiter.held.is_set()
    await holder.finish()
    await waiter.held.wait()
    await waiter.finish()


async def test_fewer_slots_than_are_busy() -> None:
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


async def test_a_choice_may_wait_and_is_asked_again() -> None:
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
    """A request of so many seconds on a node that nothing is known of."""
    return RequestEstimate(completion_tokens=seconds * 20)


async def test_a_slot_that_is_free_sooner_is_waited_for() -> None:
    admission = AdmissionController(8, 60)
    admission.set_capacity("a", "m", 1)
    admission.set_capacity("b", "m", 1, loaded=False, load_s=5.0)
    running = Holder(admission, request=work(4))
    await settle()
    sooner = Holder(admission, request=work(1))
    await settle()
    assert not sooner.held.is_set()
    behind = Holder(admission, request=work(1))  # for whom it would be 8 s
    await behind.held.wait()
    assert behind.node_id == "b"
    await running.finish()
    await sooner.held.wait()
    assert sooner.node_id == "a"
    await sooner.finish()
    await behind.finish()


async def test_who_has_waited_as_long_as_a_load_takes_waits_no_longer() -> None:
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


async def test_when_the_loaded_node_leaves_the_other_is_loaded_at_once() -> None:
    admission = AdmissionController(8, 60)
    admission.set_capacity("a", "m", 1)
    admission.set_capacity("b", "m", 1, loaded=False, load_s=50.0)
    running, waiter = Holder(admission, request=work(4)), Holder(admission, request=work(1))
    await settle()
    assert running.held.is_set()
    assert not waiter.held.is_set()
    admission.remove_node("a")
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


async def test_a_conversation_goes_where_it_was_while_there_is_room() -> None:
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


async def test_a_broken_choice_harms_its_own_request_only() -> None:
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


async def test_a_choice_outside_the_candidates_is_refused() -> None:
    admission = AdmissionController(8, 60)
    admission.set_capacity("a", "m", 1)
    with pytest.raises(ValueError, match="not a candidate"):
        await Holder(admission, choose=lambda *_: RoutingCandidate("b", 1, 0)).task
    assert state(admission).nodes[0].busy == 0


async def test_closing_wakes_everybody() -> None:
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


# --- a line that does not end ------------------------------------------------------------------------


def short(admission: AdmissionController) -> Holder:
    """A request of 0.2 s."""
    return Holder(admission, request=RequestEstimate(prompt_tokens=100, completion_tokens=100))


async def test_a_crowd_that_always_waits_has_another_node_load() -> None:
    """Each of them waits for less than the load takes."""
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


async def test_a_line_that_ended_meanwhile_wants_no_load() -> None:
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


async def test_what_takes_no_slot_goes_where_the_model_is_loaded() -> None:
    admission = AdmissionController(0, 60)
    with pytest.raises(NoNodeAvailable):
        admission.select_node_without_slot("m")
    admission.set_capacity("slow", "m", 1, loaded=False, load_s=9.0)
    admission.set_capacity("quick", "m", 1, loaded=False, load_s=3.0)
    admission.set_capacity("unreached", "m", 0)
    assert admission.select_node_without_slot("m") == "quick"
    admission.set_capacity("a", "m", 1)
    admission.set_capacity("b", "m", 1)
    async with admission.reserve_slot("m", key_id="k") as claim:
        other = "b" if claim.node_id == "a" else "a"
        assert admission.select_node_without_slot("m") == other
        assert admission.select_node_without_slot("m", frozenset({other})) == claim.node_id
    with pytest.raises(NoNodeAvailable):
        admission.select_node_without_slot("m", frozenset({"a", "b", "slow", "quick"}))
    admission.close()
    with pytest.raises(NoNodeAvailable, match="stopping"):
        admission.select_node_without_slot("m")
