"""Connection policy: how many connections to the Hub one download has, by the rates that were measured."""

from __future__ import annotations

# A rate that rises faster than this from window to window is that of a connection that still speeds up.
STEADY_GROWTH = 1.25
# Twice the connections are kept if they raise the total rate by this factor.
LEAST_GAIN = 1.25
# Windows that new connections have to show their gain.
TRIAL_WINDOWS = 10
# Delay of the next trial after one that gained nothing, or after a failed connection; it doubles.
FIRST_PAUSE_S = 10.0
LONGEST_PAUSE_S = 300.0
# A faster connection is not throttled, and several would take processor time from everything else.
FAST_BYTES_PER_S = 150_000_000


class ConnectionPolicy:
    """Policy of one download: one connection at first, and twice as many while that raises the total rate.

    Used by the thread of the download. Times are monotonic seconds.
    """

    def __init__(self, max_connections: int, window_s: float) -> None:
        self.connections = 1
        # The total rate in the last window.
        self.bytes_per_second = 0.0
        self._max_connections = max_connections
        self._window_s = window_s
        self._window_started_at: float | None = None
        self._window_start_bytes = 0
        # During a trial: the total rate before it, the number of connections before it, its windows left.
        self._trial_baseline: float | None = None
        self._connections_before = 1
        self._trial_windows = 0
        self._next_trial_at = 0.0
        self._pause_s = FIRST_PAUSE_S

    @property
    def is_trying(self) -> bool:
        """Whether the present number of connections has to show its gain yet."""
        return self._trial_baseline is not None

    def restart_measurement(self) -> None:
        """Forget the rates so far: what arrives from now on comes over a new connection."""
        self._window_started_at = self._trial_baseline = None
        self.bytes_per_second = 0.0
        self.connections = 1

    def record_total(self, received_bytes: int, now: float, *, may_grow: bool) -> None:
        """Record the total of bytes that have arrived; with `may_grow` more connections would be of use."""
        if self._window_started_at is None:
            self._window_started_at, self._window_start_bytes = now, received_bytes
            return
        elapsed_s = now - self._window_started_at
        if elapsed_s < self._window_s:
            return
        previous, rate = self.bytes_per_second, (received_bytes - self._window_start_bytes) / elapsed_s
        self.bytes_per_second = rate
        self._window_started_at, self._window_start_bytes = now, received_bytes
        if self._trial_baseline is not None:
            self._judge_trial(rate, self._trial_baseline, now, may_grow=may_grow)
        elif previous > 0 and rate <= STEADY_GROWTH * previous:
            self._try_more((rate + previous) / 2, now, may_grow=may_grow)

    def _try_more(self, rate: float, now: float, *, may_grow: bool) -> None:
        if not may_grow or self.connections >= self._max_connections or now < self._next_trial_at:
            return
        if rate < FAST_BYTES_PER_S * self.connections:
            self._trial_baseline, self._trial_windows = rate, TRIAL_WINDOWS
            self._connections_before = self.connections
            self.connections = min(2 * self.connections, self._max_connections)

    def _judge_trial(self, rate: float, baseline: float, now: float, *, may_grow: bool) -> None:
        self._trial_windows -= 1
        if rate >= LEAST_GAIN * baseline:
            self._trial_baseline = None
            self._try_more(rate, now, may_grow=may_grow)
        elif self._trial_windows == 0:
            self.connections = self._connections_before
            self._pause_trials(now, 0.0)

    def record_failure(self, open_connections: int, retry_after_s: float | None, now: float) -> None:
        """Record that a connection failed and `open_connections` are left, which have to do for a while."""
        self.connections = max(1, min(self.connections, open_connections))
        self._pause_trials(now, retry_after_s or 0.0)

    def _pause_trials(self, now: float, least_s: float) -> None:
        self._trial_baseline = None
        self._next_trial_at = now + max(self._pause_s, least_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def use_single_connection(self) -> None:
        """Stay with one connection: this server does not send ranges of one version of the file."""
        self._max_connections = self.connections = 1
        self._trial_baseline = None
