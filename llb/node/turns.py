"""Whose turn it is to send a file: the nodes that have it or fetch it, in their order, and the Hub where these give nothing.

Used by one thread, that of the download. Which nodes there are may change at any time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from llb.node.peers import CopyFailed
from llb.node.timing import Timing
from llb.wire import CopySource


@dataclass(frozen=True, slots=True)
class Ask:
    """It is this node's turn; `patient`: it may keep us waiting while its own download runs."""

    source: CopySource
    patient: bool


@dataclass(frozen=True, slots=True)
class Wait:
    """It is nobody's turn for so long. `reason` is what the last one who was asked said."""

    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whose fault a wrong sha256 is: nodes that are not asked again, or the Hub, if nobody else has sent a byte."""

    blamed: tuple[str, ...]
    hub_alone: bool


@dataclass(slots=True)
class _Standing:
    failures: int = 0  # in a row
    due: float = 0.0  # not to be asked before
    stuck_at: float | None = None  # from then on others may be asked in its place


class Turns:
    """Remembers how each source did. Times are those of `clock`, which never goes back."""

    def __init__(
        self,
        copies: Callable[[], tuple[CopySource, ...]],
        timing: Timing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`copies` are the nodes to copy from as they are named now, best first."""
        self._copies = copies
        self._timing = timing
        self._clock = clock
        self._standings: dict[str, _Standing] = {}
        self._copied_at: float | None = (
            None  # when a node last sent a byte; at first, when one was first asked for
        )
        self._hub_due = 0.0
        self._reason = ""
        self._excluded: set[str] = set()
        self._suspected: set[str] = set()
        self._on_hub = False  # it sent the last piece, and may go on
        self._from_disk = self._from_hub = False
        self._given: dict[
            str, bool
        ] = {}  # nodes that sent some of the bytes, and whether all from a verified file

    # --- who is next --------------------------------------------------------------------------------

    @property
    def copies(self) -> tuple[CopySource, ...]:
        """The nodes that may be asked."""
        return tuple(source for source in self._copies() if source.node_id not in self._excluded)

    def next(self) -> Ask | Wait | None:
        """Who is to be asked now; None is the Hub."""
        now, copies = self._clock(), self.copies
        if self._copied_at is None:
            self._copied_at = now
        dues = []
        for source in copies:
            standing = self._standing(source)
            stuck = standing.stuck_at is not None and standing.stuck_at <= now
            if standing.due <= now:
                # While the Hub sends, only who is further than we are is worth leaving it for.
                may_wait = source is copies[0] and (not stuck or len(copies) == 1) and not self._on_hub
                return Ask(source, patient=may_wait)
            dues.append(standing.due)
            if source is copies[0] and not stuck:
                break
        if not copies or (hopeless_at := self._copied_at + self._patience_s(len(copies))) <= now:
            if self._hub_due <= now:
                return None
            dues.append(self._hub_due)
        else:
            dues.append(hopeless_at)
        return Wait(min(dues) - now, self._reason)

    def _patience_s(self, sources: int) -> float:
        return self._timing.copy_patience_s + self._timing.copy_patience_step_s * (sources - 1)

    def _standing(self, source: CopySource) -> _Standing:
        return self._standings.setdefault(source.node_id, _Standing())

    # --- how it went --------------------------------------------------------------------------------

    def found_on_disk(self) -> None:
        """The file began with bytes that an earlier process left."""
        self._from_disk = True

    def gave(self, source: CopySource | None, *, verified: bool) -> None:
        """A node, or (None) the Hub, sent a piece; `verified` if that node had checked the file that it is of."""
        self._on_hub = source is None
        if source is None:
            self._from_hub = True
        else:
            self._copied_at = self._clock()
            self._given[source.node_id] = verified and self._given.get(source.node_id, True)

    def node_ended(self, source: CopySource, gained_bytes: int, failure: CopyFailed) -> None:
        """A node sends no more for now: it is asked again at once if it did well, else after a growing pause."""
        standing, timing, now = self._standing(source), self._timing, self._clock()
        self._reason = f"waiting for a copy: {failure}"
        if gained_bytes:
            standing.stuck_at = None
        if not failure.is_behind:
            standing.stuck_at = now
        elif standing.stuck_at is None:
            standing.stuck_at = now + timing.copy_first_patience_s
        if gained_bytes >= timing.steady_bytes:
            standing.failures, standing.due = 0, now
            return
        standing.failures = 0 if gained_bytes else standing.failures + 1
        pause_s = timing.copy_pause_first_s * 2 ** min(standing.failures, 10)
        standing.due = now + max(min(pause_s, timing.copy_pause_max_s), failure.retry_after_s)

    def is_first(self, source: CopySource | None) -> bool:
        """Whether nobody better could be asked than a node, or (None) the Hub."""
        copies = self.copies
        return not copies if source is None else not copies or copies[0].node_id == source.node_id

    def hub_failed(self, pause_s: float, reason: str) -> None:
        """The Hub is not to be asked before `pause_s` have passed."""
        self._reason = reason
        self._on_hub = False
        self._hub_due = self._clock() + pause_s

    def condemn(self) -> Verdict:
        """The whole file was wrong and is thrown away.

        Who sent bytes of a file that it had verified is to blame. Who passed on what it was itself just being sent, perhaps
        in good faith, is so the second time only. Where some of the bytes lay on the disk before, it may have been these.
        """
        given, self._given = self._given, {}
        from_disk, from_hub = self._from_disk, self._from_hub
        self._from_disk = self._from_hub = False
        if from_disk and given:
            return Verdict((), hub_alone=False)
        blamed = tuple(
            node_id for node_id, verified in given.items() if verified or node_id in self._suspected
        )
        self._suspected.update(given)
        self._excluded.update(blamed)
        return Verdict(blamed, hub_alone=from_hub and not given)
