"""Whose turn it is to send a file: the nodes that have it or fetch it, in their order, and the Hub where these give nothing.

Used by one thread, that of the download. Which nodes there are may change at any time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from llb.node.download.peer_fetch import PeerCopyFailed
from llb.node.download.timeouts import DownloadTimeouts
from llb.wire import PeerSource


@dataclass(frozen=True, slots=True)
class PeerChoice:
    """It is this node's turn; `patient`: it may keep us waiting while its own download runs."""

    source: PeerSource
    may_wait: bool


@dataclass(frozen=True, slots=True)
class WaitChoice:
    """It is nobody's turn for so long. `reason` is what the last one who was asked said."""

    delay_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class HashMismatchCause:
    """Whose fault a wrong sha256 is: nodes that are not asked again, or the Hub, if nobody else has sent a byte."""

    bad_sources: tuple[str, ...]
    is_hub_only: bool


@dataclass(slots=True)
class _SourceState:
    failures: int = 0  # in a row
    retry_at: float = 0.0  # not to be asked before
    stalled_at: float | None = None  # from then on others may be asked in its place


class SourceSelector:
    """Remembers how each source did. Times are those of `clock`, which never goes back."""

    def __init__(
        self,
        get_sources: Callable[[], tuple[PeerSource, ...]],
        timeouts: DownloadTimeouts,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`copies` are the nodes to copy from as they are named now, best first."""
        self._get_sources = get_sources
        self._timeouts = timeouts
        self._clock = clock
        self._source_states: dict[str, _SourceState] = {}
        self._last_peer_byte_at: float | None = (
            None  # when a node last sent a byte; at first, when one was first asked for
        )
        self._hub_retry_at = 0.0
        self._waiting_reason = ""
        self._excluded_ids: set[str] = set()
        self._suspected_ids: set[str] = set()
        self._is_using_hub = False  # it sent the last piece, and may go on
        self._has_disk_bytes = self._has_hub_bytes = False
        self._contributors: dict[
            str, bool
        ] = {}  # nodes that sent some of the bytes, and whether all from a verified file

    # --- who is next --------------------------------------------------------------------------------

    @property
    def usable_sources(self) -> tuple[PeerSource, ...]:
        """The nodes that may be asked."""
        return tuple(source for source in self._get_sources() if source.node_id not in self._excluded_ids)

    def select_source(self) -> PeerChoice | WaitChoice | None:
        """Who is to be asked now; None is the Hub."""
        now, copies = self._clock(), self.usable_sources
        if self._last_peer_byte_at is None:
            self._last_peer_byte_at = now
        dues = []
        for source in copies:
            standing = self._state_of(source)
            stuck = standing.stalled_at is not None and standing.stalled_at <= now
            if standing.retry_at <= now:
                # While the Hub sends, only who is further than we are is worth leaving it for.
                may_wait = source is copies[0] and (not stuck or len(copies) == 1) and not self._is_using_hub
                return PeerChoice(source, may_wait=may_wait)
            dues.append(standing.retry_at)
            if source is copies[0] and not stuck:
                break
        if (
            not copies
            or (hopeless_at := self._last_peer_byte_at + self._hub_fallback_delay_s(len(copies))) <= now
        ):
            if self._hub_retry_at <= now:
                return None
            dues.append(self._hub_retry_at)
        else:
            dues.append(hopeless_at)
        return WaitChoice(min(dues) - now, self._waiting_reason)

    def _hub_fallback_delay_s(self, source_count: int) -> float:
        return self._timeouts.hub_fallback_delay_s + self._timeouts.hub_fallback_step_s * (source_count - 1)

    def _state_of(self, source: PeerSource) -> _SourceState:
        return self._source_states.setdefault(source.node_id, _SourceState())

    # --- how it went --------------------------------------------------------------------------------

    def record_disk_bytes(self) -> None:
        """The file began with bytes that an earlier process left."""
        self._has_disk_bytes = True

    def record_chunk(self, source: PeerSource | None, *, verified: bool) -> None:
        """A node, or (None) the Hub, sent a piece; `verified` if that node had checked the file that it is of."""
        self._is_using_hub = source is None
        if source is None:
            self._has_hub_bytes = True
        else:
            self._last_peer_byte_at = self._clock()
            self._contributors[source.node_id] = verified and self._contributors.get(source.node_id, True)

    def record_peer_end(self, source: PeerSource, gained_bytes: int, failure: PeerCopyFailed) -> None:
        """A node sends no more for now: it is asked again at once if it did well, else after a growing pause."""
        standing, timing, now = self._state_of(source), self._timeouts, self._clock()
        self._waiting_reason = f"waiting for a copy: {failure}"
        if gained_bytes:
            standing.stalled_at = None
        if not failure.is_behind:
            standing.stalled_at = now
        elif standing.stalled_at is None:
            standing.stalled_at = now + timing.first_peer_stall_timeout_s
        if gained_bytes >= timing.backoff_reset_bytes:
            standing.failures, standing.retry_at = 0, now
            return
        standing.failures = 0 if gained_bytes else standing.failures + 1
        pause_s = timing.peer_backoff_initial_s * 2 ** min(standing.failures, 10)
        standing.retry_at = now + max(min(pause_s, timing.peer_backoff_max_s), failure.retry_after_s)

    def is_preferred_source(self, source: PeerSource | None) -> bool:
        """Whether nobody better could be asked than a node, or (None) the Hub."""
        copies = self.usable_sources
        return not copies if source is None else not copies or copies[0].node_id == source.node_id

    def record_hub_failure(self, pause_s: float, reason: str) -> None:
        """The Hub is not to be asked before `pause_s` have passed."""
        self._waiting_reason = reason
        self._is_using_hub = False
        self._hub_retry_at = self._clock() + pause_s

    def handle_hash_mismatch(self) -> HashMismatchCause:
        """The whole file was wrong and is thrown away.

        Who sent bytes of a file that it had verified is to blame. Who passed on what it was itself just being sent, perhaps
        in good faith, is so the second time only. Where some of the bytes lay on the disk before, it may have been these.
        """
        given, self._contributors = self._contributors, {}
        from_disk, from_hub = self._has_disk_bytes, self._has_hub_bytes
        self._has_disk_bytes = self._has_hub_bytes = False
        if from_disk and given:
            return HashMismatchCause((), is_hub_only=False)
        blamed = tuple(
            node_id for node_id, verified in given.items() if verified or node_id in self._suspected_ids
        )
        self._suspected_ids.update(given)
        self._excluded_ids.update(blamed)
        return HashMismatchCause(blamed, is_hub_only=from_hub and not given)
