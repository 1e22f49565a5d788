"""Source selector of one download: peer sources in their order, and the Hub when no peer makes progress.

Used by the thread of the download only. The peer sources may change at any time.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import Struct

from llb.base.backoff import Backoff
from llb.node.download.peer_fetch import PeerCopyFailed
from llb.node.download.timeouts import DownloadTimeouts
from llb.texts.coded_text import CodedText
from llb.wire import PeerSource


class PeerChoice(Struct, frozen=True):
    """A node to fetch from. `may_wait`: it may delay its response until its own download has the bytes."""

    source: PeerSource
    may_wait: bool


class WaitChoice(Struct, frozen=True):
    """A wait, because no source can be used now. `reason` is the last failure."""

    delay_s: float
    reason: str


class HashMismatchCause(Struct, frozen=True):
    """Cause of a wrong sha256: nodes that are excluded from now on, or the Hub if it sent every byte."""

    bad_sources: tuple[str, ...]
    is_hub_only: bool


class _SourceState(Struct):
    backoff: Backoff
    retry_at: float = 0.0
    # Time from which other nodes may be used instead.
    stalled_at: float | None = None


class SourceSelector:
    """Selector of the next source, by the results of each source so far. Times are those of `clock`."""

    def __init__(
        self,
        get_sources: Callable[[], tuple[PeerSource, ...]],
        timeouts: DownloadTimeouts,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`get_sources` returns the current peer sources, best first; `clock` must be monotonic."""
        self._get_sources = get_sources
        self._timeouts = timeouts
        self._clock = clock
        self._source_states: dict[str, _SourceState] = {}
        # Time of the last byte from a node; before the first byte, time of the first selection.
        self._last_peer_byte_at: float | None = None
        self._hub_retry_at = 0.0
        self._waiting_reason: str = ""
        self._excluded_ids: set[str] = set()
        self._suspected_ids: set[str] = set()
        # Whether the Hub sent the last chunk and may continue.
        self._is_using_hub = False
        self._has_disk_bytes = self._has_hub_bytes = False
        # Ids of the nodes that sent bytes → whether all of them came from a verified file.
        self._contributors: dict[str, bool] = {}

    # --- selection ----------------------------------------------------------------------------------

    @property
    def usable_sources(self) -> tuple[PeerSource, ...]:
        """The peer sources that are not excluded."""
        return tuple(source for source in self._get_sources() if source.node_id not in self._excluded_ids)

    def select_source(self) -> PeerChoice | WaitChoice | None:
        """The next source: a node, or None for the Hub, or a wait."""
        now, sources = self._clock(), self.usable_sources
        if self._last_peer_byte_at is None:
            self._last_peer_byte_at = now
        wake_times = []
        for source in sources:
            state = self._state_of(source)
            is_first = source is sources[0]
            is_stalled = state.stalled_at is not None and state.stalled_at <= now
            if state.retry_at <= now:
                # While the Hub sends, only a node that is ahead of this download is worth leaving it for.
                may_wait = is_first and (not is_stalled or len(sources) == 1) and not self._is_using_hub
                return PeerChoice(source, may_wait=may_wait)
            wake_times.append(state.retry_at)
            if is_first and not is_stalled:
                break
        fallback_at = self._last_peer_byte_at + self._hub_fallback_delay_s(len(sources))
        if not sources or fallback_at <= now:
            if self._hub_retry_at <= now:
                return None
            wake_times.append(self._hub_retry_at)
        else:
            wake_times.append(fallback_at)
        return WaitChoice(min(wake_times) - now, self._waiting_reason)

    def _hub_fallback_delay_s(self, source_count: int) -> float:
        return self._timeouts.hub_fallback_delay_s + self._timeouts.hub_fallback_step_s * (source_count - 1)

    def _state_of(self, source: PeerSource) -> _SourceState:
        state = self._source_states.get(source.node_id)
        if state is None:
            backoff = Backoff(self._timeouts.peer_backoff_initial_s, self._timeouts.peer_backoff_max_s)
            state = self._source_states[source.node_id] = _SourceState(backoff)
        return state

    # --- results ------------------------------------------------------------------------------------

    def record_disk_bytes(self) -> None:
        """Record that the file starts with bytes that an earlier process left."""
        self._has_disk_bytes = True

    def record_chunk(self, source: PeerSource | None, *, verified: bool) -> None:
        """Record a chunk from a node or the Hub (None); `verified` if the node has verified its file."""
        self._is_using_hub = source is None
        if source is None:
            self._has_hub_bytes = True
        else:
            self._last_peer_byte_at = self._clock()
            self._contributors[source.node_id] = verified and self._contributors.get(source.node_id, True)

    def record_peer_end(self, source: PeerSource, gained_bytes: int, failure: PeerCopyFailed) -> None:
        """Record that a node sends no more for now.

        After much progress it may be used again at once, otherwise after a growing delay.
        """
        state, timeouts, now = self._state_of(source), self._timeouts, self._clock()
        self._waiting_reason = CodedText(
            "waiting_for_copy", "waiting for a copy: {cause}", cause=failure.message
        )
        if gained_bytes:
            state.stalled_at = None
            state.backoff.reset()
        if not failure.is_behind:
            state.stalled_at = now
        elif state.stalled_at is None:
            state.stalled_at = now + timeouts.first_peer_stall_timeout_s
        if gained_bytes >= timeouts.backoff_reset_bytes:
            state.retry_at = now
        else:
            state.retry_at = now + max(state.backoff.next_delay_s(), failure.retry_after_s)

    def is_preferred_source(self, source: PeerSource | None) -> bool:
        """Whether no better source exists than this node, or the Hub (None)."""
        sources = self.usable_sources
        return not sources or (source is not None and sources[0].node_id == source.node_id)

    def record_hub_failure(self, delay_s: float, reason: str) -> None:
        """Record a failure of the Hub, which is not used again before `delay_s` have passed."""
        self._waiting_reason = reason
        self._is_using_hub = False
        self._hub_retry_at = self._clock() + delay_s

    def handle_hash_mismatch(self) -> HashMismatchCause:
        """Determine the cause of a wrong sha256, exclude its nodes, and start with an empty file.

        A node that sent bytes of a file that it had verified is excluded. A node that passed on bytes of its
        own unfinished download, perhaps in good faith, is excluded the second time. If some of the bytes were
        on disk before, these may be the cause, and no node is excluded.
        """
        contributors, self._contributors = self._contributors, {}
        had_disk_bytes, had_hub_bytes = self._has_disk_bytes, self._has_hub_bytes
        self._has_disk_bytes = self._has_hub_bytes = False
        if had_disk_bytes and contributors:
            return HashMismatchCause((), is_hub_only=False)
        bad_sources = tuple(
            node_id
            for node_id, verified in contributors.items()
            if verified or node_id in self._suspected_ids
        )
        self._suspected_ids.update(contributors)
        self._excluded_ids.update(bad_sources)
        return HashMismatchCause(bad_sources, is_hub_only=had_hub_bytes and not contributors)
