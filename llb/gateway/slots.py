"""One model's slots and the line that waits for them: first come first served within a key, keys in turn.

Nothing here awaits, so every taking and giving back is atomic on the event loop."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

from llb.decide.routing import Candidate
from llb.errors import NoNodeAvailable, QueueFull

Choose = Callable[[Sequence[Candidate]], Candidate | None]

RETRY_AFTER_MIN_S, RETRY_AFTER_MAX_S = 1, 60
# Weight of the newest gap between two completions in the drain rate.
DRAIN_WEIGHT = 0.2


class NodeSlots:
    """The slots of one node for one model. It outlives its removal while claims are out."""

    __slots__ = ("busy", "loaded", "node_id", "present", "slots")

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.present = False
        self.slots = 0
        self.busy = 0
        self.loaded = False


class Waiter:
    __slots__ = ("choose", "exclude", "granted", "key_id")

    def __init__(self, key_id: str, choose: Choose, exclude: frozenset[str]) -> None:
        self.key_id = key_id
        self.choose = choose
        self.exclude = exclude
        self.granted: asyncio.Future[NodeSlots] = asyncio.get_running_loop().create_future()


class ModelQueue:
    """One model: its nodes, and those who wait, first come first served within a key, keys in turn."""

    def __init__(self, model_id: str, clock: Callable[[], float]) -> None:
        self.model_id = model_id
        self.nodes: dict[str, NodeSlots] = {}
        self.waiting = 0
        self._clock = clock
        self._turns: OrderedDict[str, deque[Waiter]] = OrderedDict()
        self._gap_s: float | None = None  # between completions while somebody waits (EWMA)
        self._gap_since: float | None = None

    # --- taking and giving back; no await anywhere, so each is atomic ---

    def take(self, choose: Choose, exclude: frozenset[str]) -> NodeSlots | None:
        """A slot chosen and marked busy, or None."""
        candidates = [
            Candidate(node.node_id, node.slots, node.busy, node.loaded)
            for node in self.nodes.values()
            if node.slots > node.busy and node.node_id not in exclude
        ]
        if not candidates:
            return None
        chosen = choose(candidates)
        if chosen is None:
            return None
        if chosen not in candidates:
            raise ValueError(f"the choice {chosen.node_id} is not a candidate")
        node = self.nodes[chosen.node_id]
        node.busy += 1
        return node

    def give_back(self, node: NodeSlots) -> None:
        node.busy -= 1
        self._forget_if_gone(node)
        self._measure()
        self.grant()

    def grant(self) -> None:
        """Hand free slots to waiters. Afterwards no waiter can use any slot that is free."""
        if not self.waiting:
            return
        progress = True
        while progress and any(node.slots > node.busy for node in self.nodes.values()):
            progress = False
            for key_id in tuple(self._turns):
                if self._grant_one(key_id):
                    progress = True
                    break

    def _grant_one(self, key_id: str) -> bool:
        """A slot for the first waiter of this key that can use one; the key then goes to the end of the turns."""
        for waiter in self._turns[key_id]:
            if waiter.granted.done():  # cancelled, and its task has not run yet to leave the line
                continue
            try:
                node = self.take(waiter.choose, waiter.exclude)
            except (
                Exception
            ) as error:  # a broken choice is its own request's failure, not that of who gave back
                self.fail(waiter, error)
                return True
            if node is not None:
                self.leave(waiter)
                if key_id in self._turns:
                    self._turns.move_to_end(key_id)
                waiter.granted.set_result(node)
                return True
        return False

    # --- waiting ---

    def enter(self, waiter: Waiter) -> None:
        self._turns.setdefault(waiter.key_id, deque()).append(waiter)
        self.waiting += 1
        if self._gap_since is None:
            self._gap_since = self._clock()

    def leave(self, waiter: Waiter) -> None:
        line = self._turns[waiter.key_id]
        line.remove(waiter)
        if not line:
            del self._turns[waiter.key_id]
        self.waiting -= 1
        if not self.waiting:
            self._gap_since = None

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

    def set_node(self, node_id: str, slots: int, loaded: bool) -> None:
        node = self.nodes.setdefault(node_id, NodeSlots(node_id))
        node.present, node.slots, node.loaded = True, slots, loaded
        self.grant()

    def remove_node(self, node_id: str) -> None:
        node = self.nodes.get(node_id)
        if node is not None:
            node.present, node.slots = False, 0
            self._forget_if_gone(node)
            self.fail_all(no_node, only_hopeless=True)

    def hope(self, exclude: frozenset[str]) -> bool:
        """Whether a node is there that could serve, now or later."""
        return any(node.present and node.node_id not in exclude for node in self.nodes.values())

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
