"""Engines of unequal speed behind one line of requests, in simulated time; what is known of them is what llb would know."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.simulation.engine import Engine, Job, Prompt
from bench.simulation.policies import Policy
from bench.simulation.sessions import Client, Session, Turn
from llb.gateway.admission.model_queue import NodeSlots
from llb.gateway.routing.performance_model import PerformanceModel
from llb.gateway.stream.usage_parser import Usage
from llb.policy.routing import RequestEstimate, hash64

MODEL = "model"
LENGTH = 1.1  # what the length of a body makes of its tokens


@dataclass(slots=True)
class Asking:
    """A client in the middle of its sessions."""

    client: Client
    session: int = 0
    turn: int = 0
    told_tokens: int = 0  # what both have said so far in this session, without the system prompt

    @property
    def now(self) -> tuple[Session, Turn]:
        session = self.client.sessions[self.session]
        return session, session.turns[self.turn]

    def prompt(self) -> Prompt:
        session, turn = self.now
        tokens = session.system_tokens + self.told_tokens + turn.asked_tokens
        return Prompt(session.number, session.system, session.system_tokens, tokens)

    def answered(self) -> bool:
        """Go on to the next question; whether there is one."""
        session, turn = self.now
        self.told_tokens += turn.asked_tokens + turn.answer_tokens
        self.turn += 1
        if self.turn == len(session.turns):
            self.session, self.turn, self.told_tokens = self.session + 1, 0, 0
        return self.session < len(self.client.sessions)


class Node:
    """An engine, and what the balancer knows of it."""

    def __init__(self, number: int, engine: Engine, speeds: PerformanceModel) -> None:
        node_id = f"node-{number}"
        self.engine = engine
        self.known = NodeSlots(
            node_id,
            engine.slots,
            loaded=True,
            is_present=True,
            throughput=speeds.throughput_of(node_id, MODEL),
        )
        self.version = 0  # of its next event: an older one is out of date


@dataclass(slots=True, eq=False)
class Waiting:
    asking: Asking
    job: Job
    request: RequestEstimate
    together: int = 0


class Cluster:
    """`run` plays all clients to their end, or until `until` and no further question; `done` are the answered requests."""

    def __init__(self, engines: Iterable[Engine], policy: Policy) -> None:
        self.done: list[Job] = []
        self._policy = policy
        self._speeds = PerformanceModel(clock=lambda: 0.0)
        self._nodes = {
            node.known.node_id: node
            for node in (Node(number, engine, self._speeds) for number, engine in enumerate(engines))
        }
        self._known: Sequence[NodeSlots] = [node.known for node in self._nodes.values()]
        self._line: deque[Waiting] = deque()
        self._running: dict[Job, Waiting] = {}
        self._events: list[tuple[float, int, Asking | Node, int]] = []
        self._count = itertools.count()

    def run(self, clients: Iterable[Client], until: float | None = None) -> None:
        for client in clients:
            self._at(client.begins, Asking(client))
        while self._events:
            now, _, what, version = heapq.heappop(self._events)
            if isinstance(what, Asking):
                if until is None or now < until:
                    self._ask(what, now)
            elif version == what.version:
                self._advance(what, now)
                self._next(what)
            else:
                continue
            self._grant(now)

    def _at(self, time: float, what: Asking | Node, version: int = 0) -> None:
        heapq.heappush(self._events, (time, next(self._count), what, version))

    def _ask(self, asking: Asking, now: float) -> None:
        prompt, (session, turn) = asking.prompt(), asking.now
        request = self._speeds.estimate_request(
            MODEL, int(prompt.tokens * LENGTH), None, hash64(b"%d" % session.number)
        )
        self._line.append(Waiting(asking, Job(prompt, turn.answer_tokens, now), request))

    def _grant(self, now: float) -> None:
        while self._line:
            waiting = self._line[0]
            chosen = self._policy.choose(self._known, waiting.request)
            if chosen is None:
                return
            self._line.popleft()
            node = self._nodes[chosen.node_id]
            assert node.known.free_slots > 0
            node.known.reserve(waiting.request)
            waiting.together = node.known.busy
            self._running[waiting.job] = waiting
            self._advance(node, now)
            node.engine.take(waiting.job)
            self._next(node)

    def _next(self, node: Node) -> None:
        node.version += 1
        at = node.engine.next_at()
        if at is not None:
            self._at(at, node, node.version)

    def _advance(self, node: Node, now: float) -> None:
        for job in node.engine.advance(now):
            self._end(node, self._running.pop(job), now)

    def _end(self, node: Node, waiting: Waiting, now: float) -> None:
        job, asking = waiting.job, waiting.asking
        usage = Usage(
            job.prompt.tokens,
            job.answer_tokens,
            job.cached_tokens,
            (job.first_token - job.prefill_began) * 1000,
            (job.ended - job.first_token) * 1000,
        )
        busy = (waiting.together + node.known.busy) / 2
        self._speeds.record_completion(
            node.known.node_id, MODEL, waiting.request, usage, mean_busy_slots=busy
        )
        node.known.release(waiting.request)
        self.done.append(job)
        think_s = asking.now[1].think_s
        if asking.answered():
            self._at(now + think_s, asking)
