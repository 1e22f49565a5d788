"""Engines of unequal speed behind one queue, in simulated time; the balancer knows only what llb would
know.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.simulation.engine import Job, Prompt, SimulatedEngine
from bench.simulation.policies import RoutingPolicy
from bench.simulation.sessions import Session, SimulatedUser, Turn
from llb.gateway.admission.model_queue import NodeSlots
from llb.gateway.routing.performance_model import PerformanceModel
from llb.gateway.stream.usage_parser import Usage
from llb.policy.routing import RequestEstimate, hash64

MODEL = "model"
BODY_LENGTH_FACTOR = 1.1  # what the length of a body makes of its tokens


@dataclass(slots=True)
class SimulatedClient:
    """Client in the middle of its sessions."""

    client: SimulatedUser
    session: int = 0
    turn: int = 0
    history_tokens: int = 0  # what both have said so far in this session, without the system prompt

    @property
    def current_turn(self) -> tuple[Session, Turn]:
        session = self.client.sessions[self.session]
        return session, session.turns[self.turn]

    def build_prompt(self) -> Prompt:
        session, turn = self.current_turn
        tokens = session.system_tokens + self.history_tokens + turn.question_tokens
        return Prompt(session.number, session.system_prompt, session.system_tokens, tokens)

    def advance_turn(self) -> bool:
        """Advance to the next question; return whether there is one."""
        session, turn = self.current_turn
        self.history_tokens += turn.question_tokens + turn.answer_tokens
        self.turn += 1
        if self.turn == len(session.turns):
            self.session, self.turn, self.history_tokens = self.session + 1, 0, 0
        return self.session < len(self.client.sessions)


class SimulatedNode:
    """Engine, and what the balancer knows of it."""

    def __init__(self, number: int, engine: SimulatedEngine, speeds: PerformanceModel) -> None:
        node_id = f"node-{number}"
        self.engine = engine
        self.node_slots = NodeSlots(
            node_id,
            engine.slots,
            loaded=True,
            is_present=True,
            throughput=speeds.throughput_of(node_id, MODEL),
        )
        self.version = 0  # of its next event: an older one is out of date


@dataclass(slots=True, eq=False)
class PendingJob:
    client: SimulatedClient
    job: Job
    request: RequestEstimate
    busy_at_start: int = 0


class SimulatedCluster:
    """`run` simulates all clients to their end, or until `until`; `done` are the answered requests."""

    def __init__(self, engines: Iterable[SimulatedEngine], policy: RoutingPolicy) -> None:
        self.finished_jobs: list[Job] = []
        self._policy = policy
        self._speeds = PerformanceModel(clock=lambda: 0.0)
        self._nodes = {
            node.node_slots.node_id: node
            for node in (SimulatedNode(number, engine, self._speeds) for number, engine in enumerate(engines))
        }
        self._node_slots: Sequence[NodeSlots] = [node.node_slots for node in self._nodes.values()]
        self._queue: deque[PendingJob] = deque()
        self._running: dict[Job, PendingJob] = {}
        self._events: list[tuple[float, int, SimulatedClient | SimulatedNode, int]] = []
        self._count = itertools.count()

    def run(self, clients: Iterable[SimulatedUser], until: float | None = None) -> None:
        for client in clients:
            self._schedule(client.starts_at, SimulatedClient(client))
        while self._events:
            now, _, what, version = heapq.heappop(self._events)
            if isinstance(what, SimulatedClient):
                if until is None or now < until:
                    self._enqueue(what, now)
            elif version == what.version:
                self._advance(what, now)
                self._schedule_next(what)
            else:
                continue
            self._start_queued(now)

    def _schedule(self, time: float, what: SimulatedClient | SimulatedNode, version: int = 0) -> None:
        heapq.heappush(self._events, (time, next(self._count), what, version))

    def _enqueue(self, asking: SimulatedClient, now: float) -> None:
        prompt, (session, turn) = asking.build_prompt(), asking.current_turn
        request = self._speeds.estimate_request(
            MODEL, int(prompt.tokens * BODY_LENGTH_FACTOR), None, hash64(b"%d" % session.number)
        )
        self._queue.append(PendingJob(asking, Job(prompt, turn.answer_tokens, now), request))

    def _start_queued(self, now: float) -> None:
        while self._queue:
            waiting = self._queue[0]
            chosen = self._policy.choose(self._node_slots, waiting.request)
            if chosen is None:
                return
            self._queue.popleft()
            node = self._nodes[chosen.node_id]
            assert node.node_slots.free_slots > 0
            node.node_slots.reserve(waiting.request)
            waiting.busy_at_start = node.node_slots.busy
            self._running[waiting.job] = waiting
            self._advance(node, now)
            node.engine.start_job(waiting.job)
            self._schedule_next(node)

    def _schedule_next(self, node: SimulatedNode) -> None:
        node.version += 1
        at = node.engine.next_event_at()
        if at is not None:
            self._schedule(at, node, node.version)

    def _advance(self, node: SimulatedNode, now: float) -> None:
        for job in node.engine.advance(now):
            self._finish_job(node, self._running.pop(job), now)

    def _finish_job(self, node: SimulatedNode, waiting: PendingJob, now: float) -> None:
        job, asking = waiting.job, waiting.client
        usage = Usage(
            job.prompt.tokens,
            job.answer_tokens,
            job.cached_tokens,
            (job.first_token - job.prefill_began) * 1000,
            (job.ended - job.first_token) * 1000,
        )
        busy = (waiting.busy_at_start + node.node_slots.busy) / 2
        self._speeds.record_completion(
            node.node_slots.node_id, MODEL, waiting.request, usage, mean_busy_slots=busy
        )
        node.node_slots.release(waiting.request)
        self.finished_jobs.append(job)
        think_s = asking.current_turn[1].think_s
        if asking.advance_turn():
            self._schedule(now + think_s, asking)
