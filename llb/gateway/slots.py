"""One model's slots and the line that waits for them: first come first served within a key, keys in turn.

Nothing here awaits, so every taking and giving back is atomic on the event loop."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llb.decide.routing import DEFAULT_LOAD_S, Candidate, Request, Speed
from llb.errors import NoNodeAvailable, QueueFull

Choose = Callable[[Sequence[Candidate], Request], Candidate | None]

RETRY_AFTER_MIN_S, RETRY_AFTER_MAX_S = 1, 60
# Weight of the newest gap between two completions in the drain rate.
DRAIN_WEIGHT = 0.2
LOOK_AGAIN_LEAST_S = 1.0


@dataclass(slots=True, eq=False)
class NodeSlots(Candidate):
    """The slots of one node for one model. It outlives its removal while claims are out."""

    slots: int = 0
    busy: int = 0
    loaded: bool = False
    present: bool = False

    def take(self, request: Request) -> None:
        self.busy += 1
        self.prompt_tokens += request.prompt_tokens
        self.completion_tokens += request.completion_tokens

    def give_back(self, request: Request) -> None:
        self.busy -= 1
        self.prompt_tokens -= request.prompt_tokens
        self.completion_tokens -= request.completion_tokens


class Waiter:
    """A request in the line. `look_again` is its timer while it lets a slot pass that it would first have to load."""

    __slots__ = ("body_bytes", "choose", "exclude", "granted", "key_id", "look_again", "request", "since")

    def __init__(
        self,
        key_id: str,
        request: Request,
        choose: Choose,
        exclude: frozenset[str],
        since: float,
        body_bytes: int = 0,
    ) -> None:
        self.key_id = key_id
        self.body_bytes = body_bytes
        self.request = request
        self.choose = choose
        self.exclude = exclude
        self.since = since
        self.look_again: asyncio.TimerHandle | None = None
        self.granted: asyncio.Future[NodeSlots] = asyncio.get_running_loop().create_future()


class ModelQueue:
    """One model: its nodes, and those who wait, first come first served within a key, keys in turn."""

    def __init__(
        self,
        model_id: str,
        clock: Callable[[], float],
        on_wanted: Callable[[str], None] = lambda _node_id: None,
    ) -> None:
        """`on_wanted` is told of a node that should load the model, because there is a line that does not end."""
        self.model_id = model_id
        self.nodes: dict[str, NodeSlots] = {}
        self.waiting = 0
        self.waiting_bytes = 0  # of bodies, which stay in memory meanwhile
        self._present: tuple[NodeSlots, ...] = ()
        self._clock = clock
        self._on_wanted = on_wanted
        self._line_since: float | None = None  # somebody has been waiting all the time
        self._turns: OrderedDict[str, deque[Waiter]] = OrderedDict()
        self._gap_s: float | None = None  # between completions while somebody waits (EWMA)
        self._gap_since: float | None = None

    # --- taking and giving back; no await anywhere, so each is atomic ---

    def take(self, request: Request, choose: Choose, exclude: frozenset[str]) -> NodeSlots | None:
        """A slot chosen and marked busy, or None."""
        candidates: Sequence[NodeSlots] = self._present
        if exclude:
            candidates = [node for node in candidates if node.node_id not in exclude]
        chosen = choose(candidates, request)
        if chosen is None:
            return None
        node = self.nodes.get(chosen.node_id)
        if node is None or node is not chosen or node.free <= 0:
            raise ValueError(f"the choice {chosen.node_id} is not a candidate")
        node.take(request)
        return node

    def give_back(self, node: NodeSlots, request: Request) -> None:
        node.give_back(request)
        self._forget_if_gone(node)
        self._measure()
        # Who let a slot pass that is not loaded has no new reason to want it: they need not all be asked again.
        self.grant(loaded_only=node.loaded)

    def grant(self, *, loaded_only: bool = False) -> None:
        """Hand free slots to waiters. Afterwards no waiter wants any slot that is free."""
        progress = self.waiting > 0
        while progress and any(node.free > 0 and (node.loaded or not loaded_only) for node in self._present):
            progress = any(self._grant_one(key_id, turn) for turn, key_id in enumerate(tuple(self._turns)))

    def _grant_one(self, key_id: str, turn: int) -> bool:
        """A slot for the first waiter of this key that wants one."""
        for place, waiter in enumerate(self._turns[key_id]):
            if waiter.granted.done():  # cancelled, and its task has not run yet to leave the line
                continue
            waiter.request.ahead = turn + place * len(self._turns)
            if self._offer(waiter):
                return True
        return False

    def _offer(self, waiter: Waiter) -> bool:
        """Whether the waiter has left the line, with an error or with a slot; its key then goes to the end of the turns."""
        waiter.request.waited_s = self._clock() - waiter.since
        try:
            node = self.take(waiter.request, waiter.choose, waiter.exclude)
        except Exception as error:  # a broken choice is its own request's failure, not that of who gave back
            self.fail(waiter, error)
            return True
        if node is None:
            self._watch(waiter)
            return False
        self.leave(waiter)
        if waiter.key_id in self._turns:
            self._turns.move_to_end(waiter.key_id)
        waiter.granted.set_result(node)
        return True

    def _watch(self, waiter: Waiter) -> None:
        """Have who lets a slot pass, because one that is loaded will be free sooner, look again when it should have been."""
        if waiter.look_again is None:
            loads = [
                node.load_s
                for node in self._present
                if node.free > 0 and not node.loaded and node.node_id not in waiter.exclude
            ]
            if loads:
                waited_s = self._clock() - waiter.since
                left_s = min(loads) - waited_s
                waiter.look_again = waiter.granted.get_loop().call_later(
                    left_s if left_s > 0 else max(LOOK_AGAIN_LEAST_S, waited_s), self._look_again, waiter
                )

    def _look_again(self, waiter: Waiter) -> None:
        waiter.look_again = None
        if not waiter.granted.done():
            self._offer(waiter)

    # --- waiting ---

    def enter(self, waiter: Waiter) -> None:
        self._turns.setdefault(waiter.key_id, deque()).append(waiter)
        self.waiting += 1
        self.waiting_bytes += waiter.body_bytes
        if self._gap_since is None:
            self._gap_since = self._clock()
        if self._line_since is None:
            self._line_since = self._clock()
        else:
            self._want_more(self._clock() - self._line_since)
        self._watch(waiter)

    def _want_more(self, line_s: float) -> None:
        """Each of a crowd may wait too short for a load to be worth it to them, and the crowd for ever."""
        idle = [node for node in self._present if node.free > 0 and not node.loaded and not node.busy]
        soonest = min(idle, key=lambda node: node.load_s, default=None)
        if soonest is not None and line_s >= soonest.load_s:
            self._on_wanted(soonest.node_id)

    def ahead(self, key_id: str) -> int:
        """How many will be served before a request of this key that comes now, for keys take turns."""
        line = self._turns.get(key_id)
        return min(self.waiting, (len(line) + 1 if line is not None else 1) * len(self._turns))

    def leave(self, waiter: Waiter) -> None:
        if waiter.look_again is not None:
            waiter.look_again.cancel()
        line = self._turns[waiter.key_id]
        line.remove(waiter)
        if not line:
            del self._turns[waiter.key_id]
        self.waiting -= 1
        self.waiting_bytes -= waiter.body_bytes
        if not self.waiting:
            self._gap_since = self._line_since = None

    def fail(self, waiter: Waiter, error: Exception) -> None:
        if not waiter.granted.done():
            self.leave(waiter)
            waiter.granted.set_exception(error)

    def fail_all(self, error: Callable[[], Exception], *, only_hopeless: bool = False) -> None:
        for line in tuple(self._turns.values()):
            for waiter in tuple(line):
                if not (only_hopeless and self.hope(waiter.exclude)):
                    self.fail(waiter, error())

    # --- nodes ---

    def set_node(
        self,
        node_id: str,
        slots: int,
        *,
        loaded: bool,
        load_s: float = DEFAULT_LOAD_S,
        context_length: int | None = None,
        speed: Speed | None = None,
    ) -> None:
        node = self.nodes.setdefault(node_id, NodeSlots(node_id))
        before = (node.present, node.slots, node.loaded, node.context_length)
        node.present, node.slots, node.loaded, node.context_length = True, slots, loaded, context_length
        node.load_s = load_s
        if speed is not None:
            node.speed = speed
        self._list_present()
        if (True, slots, loaded, context_length) != before:
            self.grant()

    def remove_node(self, node_id: str) -> None:
        node = self.nodes.get(node_id)
        if node is not None:
            node.present, node.slots = False, 0
            self._list_present()
            self._forget_if_gone(node)
            self.fail_all(no_node, only_hopeless=True)
            self.grant()  # who waited for it may now want one that is not loaded

    def _list_present(self) -> None:
        self._present = tuple(node for node in self.nodes.values() if node.present)

    @property
    def choices(self) -> int:
        """How many nodes there are to choose from."""
        return len(self._present)

    def hope(self, exclude: frozenset[str]) -> bool:
        """Whether a node is there that could serve, now or later."""
        return any(node.node_id not in exclude for node in self._present)

    def _forget_if_gone(self, node: NodeSlots) -> None:
        if not node.present and not node.busy:
            self.nodes.pop(node.node_id, None)

    # --- how fast it drains ---

    def _measure(self) -> None:
        """A gap counts only if somebody waited through it: an idle engine completes nothing, and that is no slowness."""
        now = self._clock()
        if self._gap_since is not None:
            gap_s = now - self._gap_since
            self._gap_s = gap_s if self._gap_s is None else self._gap_s + DRAIN_WEIGHT * (gap_s - self._gap_s)
        self._gap_since = now if self.waiting else None

    def retry_after_s(self) -> int:
        """When the queue as it is now will have drained: its length times the mean gap between completions."""
        least_s, gap_s = RETRY_AFTER_MIN_S, self._gap_s
        if gap_s is None:  # nothing has completed yet
            least_s, gap_s = QueueFull.retry_after_s or RETRY_AFTER_MIN_S, 0.0
        if self._gap_since is not None:  # what has lasted so long already is a lower bound of the next gap
            gap_s = max(gap_s, self._clock() - self._gap_since)
        return max(least_s, min(RETRY_AFTER_MAX_S, math.ceil((self.waiting + 1) * gap_s)))

    @property
    def empty(self) -> bool:
        return not self.nodes and not self.waiting


def no_node() -> NoNodeAvailable:
    return NoNodeAvailable("Every node that holds this model is offline, draining or has failed")
